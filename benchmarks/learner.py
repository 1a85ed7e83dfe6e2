"""The learner trains at least 0.9 of a plain Transformers loop's tokens per second, 2.5 times a pairwise trainer's.

All three train the same groups (K = 4, every one of the 6 pairs) with the same model, number formats, optimizer and
reference; see `plain_training`. Tokens are those of prompt and completion of every distinct sequence, for all three
the same, however often or seldom a system computes them. One thread each, as in the loop on two cores. What an
objective itself costs, its pairs, win rates and losses, is at most 3% of a step.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actors.config import AlignConfig
from actors.learner import Learner
from actors.models import load_tokenizer, render_prompt, resolve_model
from actors.policy import Policy
from actors.prompts import load_prompts
from actors.records import Candidate, Group, Sampling, VersionSpan, group_id
from actors.work import alone, pair_inputs, work_of
from algorithms.objective import build_objective
from benchmarks.measure import Measurement, ratios, seconds, take_turns
from benchmarks.models import make_llama
from benchmarks.plain_training import PlainTrainer
from benchmarks.results import Figure
from benchmarks.runs import PROMPTS, configuration

PLAIN_TARGET = 0.9
PAIRWISE_TARGET = 2.5
OBJECTIVE_TARGET = 0.03
OBJECTIVES: dict[str, dict[str, Any]] = {
    "online_dpo": {"candidates": 4, "pair_choice": "all"},
    "online_ipo": {"candidates": 2, "opponents": 2},
    "egpo": {"candidates": 2, "opponents": 2},
    "sppo": {"candidates": 4, "pair_choice": "all"},
    "inpo": {"candidates": 4},
    "dno": {"candidates": 4},
}
CANDIDATES = 4
BETA = 0.1
SEQUENCES_AT_ONCE = 8
"""Of the plain loops; about as many tokens as the learner's budget."""


def make_groups(prompts: Sequence[list[int]], vocabulary: int, longest: int, seed: int = 0) -> list[Group]:
    """Scored groups with random completions of `longest` / 3 to `longest` tokens and no ties."""
    generator = np.random.default_rng(seed)
    groups = []
    for index, prompt in enumerate(prompts):
        lengths = generator.integers(longest // 3, longest + 1, CANDIDATES)
        order = generator.permutation(CANDIDATES)
        preference = np.where(order[:, None] > order[None, :], 1.0, 0.0)
        np.fill_diagonal(preference, 0.5)
        groups.append(
            Group(
                id=group_id(seed, 0, index),
                index=index,
                epoch=0,
                version=0,
                messages=({"role": "user", "content": ""},),
                prompt_ids=np.asarray(prompt, dtype=np.int32),
                candidates=tuple(_candidate(generator, int(length), vocabulary) for length in lengths),
                engine="none",
                preference=preference,
                scorer="none",
            )
        )
    return groups


def distinct_tokens(groups: Sequence[Group]) -> int:
    """Prompt and completion tokens of every candidate."""
    return sum(len(group.prompt_ids) + len(c.token_ids) for group in groups for c in group.candidates)


def run(quick: bool) -> list[Figure]:
    """Full weights of a tiny Llama, and the demo's model under an adapter."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="nashloop-benchmark-") as folder:
        objective = {"options": {"candidates": CANDIDATES, "beta": BETA, "pair_choice": "all"}}
        tiny = configuration(make_llama(Path(folder)), {"objective": objective, "learner": {"token_budget": 1024}})
        demo = configuration(
            "smollm2-135m-instruct",
            {
                "model": {"dtype": "bfloat16"},
                "objective": objective,
                "learner": {"method": "lora", "token_budget": 1024},
            },
        )
        return [
            *_compare("Llama 4.2M, float32", tiny, groups=8 if quick else 32, turns=2 if quick else 5),
            *_compare("SmolLM2-135M with LoRA, bfloat16", demo, groups=4 if quick else 8, turns=1 if quick else 3),
        ]


def _compare(name: str, config: AlignConfig, groups: int, turns: int) -> list[Figure]:
    folder = resolve_model(config.model.name)
    tokenizer = load_tokenizer(folder)
    rendered = [render_prompt(tokenizer, record.messages) for record in load_prompts(PROMPTS)[:groups]]
    batch = make_groups(rendered, len(tokenizer), config.rollout.max_new_tokens)
    objective = build_objective(config.objective.name, config.objective.options)
    learner = Learner(config, Policy(config, folder, torch.device("cpu")), objective)
    plain = PlainTrainer(config, Policy(config, folder, torch.device("cpu")), BETA)
    tokens = distinct_tokens(batch)
    actions: dict[str, Callable[[], object]] = {
        "ours": lambda: learner.update(batch, alone),
        "plain": lambda: plain.step_by_candidate(batch, SEQUENCES_AT_ONCE // CANDIDATES),
        "pairwise": lambda: plain.step_by_pair(batch, SEQUENCES_AT_ONCE // 2),
    }
    for warm_up in actions.values():
        warm_up()
    rates = take_turns({key: _rate(tokens, action) for key, action in actions.items()}, turns)
    shares = [
        objective_seconds(other, options, batch) * rates["ours"][0] / tokens for other, options in OBJECTIVES.items()
    ]
    return [
        Figure(name=f"{name}: learner", values=tuple(rates["ours"]), unit="tokens/s"),
        Figure(name=f"{name}: plain loop", values=tuple(rates["plain"]), unit="tokens/s"),
        Figure(name=f"{name}: pairwise", values=tuple(rates["pairwise"]), unit="tokens/s"),
        Figure(
            name=f"{name}: learner / plain loop",
            values=tuple(ratios(rates["ours"], rates["plain"])),
            target=PLAIN_TARGET,
            note=f"{groups} groups of {CANDIDATES}, {tokens} tokens an update",
        ),
        Figure(
            name=f"{name}: dearest objective / learner step",
            values=(max(shares),),
            target=OBJECTIVE_TARGET,
            bound="at most",
            note=f"pairs, win rates and loss; of {', '.join(OBJECTIVES)}",
        ),
        Figure(
            name=f"{name}: learner / pairwise",
            values=tuple(ratios(rates["ours"], rates["pairwise"])),
            target=PAIRWISE_TARGET,
            note="6 pairs a group",
        ),
    ]


def objective_seconds(name: str, options: Mapping[str, Any], batch: Sequence[Group]) -> float:
    """What an objective itself costs in an update of `batch`: choosing pairs, win rates, losses and their gradients."""
    objective = build_objective(name, options)

    def once() -> None:
        work = [work_of(objective, group, 0) for group in batch]
        logprobs = torch.zeros(sum(len(item.used) for item in work), requires_grad=True)
        objective.loss(pair_inputs(work, logprobs, torch.zeros_like(logprobs))).sum().backward()

    once()
    return min(seconds(once) for _ in range(5))


def _rate(tokens: int, action: Callable[[], object]) -> Measurement:
    return lambda _: tokens / seconds(action)


def _candidate(generator: np.random.Generator, length: int, vocabulary: int) -> Candidate:
    return Candidate(
        seed=0,
        role="pair",
        policy="current",
        sampling=Sampling(temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=length),
        token_ids=generator.integers(0, vocabulary, length).astype(np.int32),
        logprobs=np.zeros(length, dtype=np.float32),
        text="",
        finish_reason="stop",
        versions=(VersionSpan(version=0, start=0, end=length),),
    )
