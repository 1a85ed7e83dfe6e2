"""Promise 3: with eta 0 the loop is the plain synchronous one, bit for bit; promise 5: with lr 0 it changes nothing."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from actors.config import AlignConfig
from actors.learner import Learner
from actors.policy import Policy
from actors.records import Group, GroupRequest, Part, Sampling, derive_seed, from_arrow
from actors.scorer import Panel, prompt_text
from actors.work import alone
from algorithms.prompt_order import prompt_at
from tests.loop.shared.test_publication import publication
from tests.loop.support import Outcome, Runs, load_weights, same_weights
from workflows.config import objective_of
from workflows.preflight import Inputs, check_inputs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def plain_loop(config: AlignConfig, engine: Any) -> dict[str, torch.Tensor]:
    """Generate, score, update, load, in turn; returns the final weights."""
    inputs = check_inputs(config)
    policy = Policy(config, config.model.name, torch.device("cpu"))
    learner, panel = Learner(config, policy, objective_of(config)), Panel(config.scoring)
    for version in range(config.loop.steps):
        ray.get(engine.load.remote(publication(policy, version)))
        batch = range(version * config.loop.batch, (version + 1) * config.loop.batch)
        groups = [sample(engine, config, inputs, index) for index in batch]
        learner.update([g.scored(panel.matrix(prompt_text(g), g.candidates), "plain") for g in groups], alone)
    return {name: parameter.detach() for name, parameter in policy.parameters().items()}


def sample(engine: Any, config: AlignConfig, inputs: Inputs, index: int) -> Group:
    """Three candidates for the prompt whose turn it is."""
    epoch, place = prompt_at(index, len(inputs.prompts), config.seed)
    sampling = Sampling(temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=config.rollout.max_new_tokens)
    seeds = tuple(derive_seed(config.seed, "candidate", index, k) for k in range(3))
    request = GroupRequest(
        id=f"plain-{index}",
        index=index,
        epoch=epoch,
        version=index // config.loop.batch,
        messages=inputs.prompts[place],
        parts=(Part(role="pair", policy="current", seeds=seeds, sampling=sampling),),
    )
    return from_arrow(ray.get(engine.generate.remote(request)[1]))[0]


def test_eta_0_is_the_synchronous_loop(engine: Any, synchronous: Outcome, runs: Runs) -> None:
    plain = plain_loop(runs.config("synchronous"), engine)
    assert same_weights(synchronous.succeeded().weights(), plain)


def test_eta_0_trains_nothing_stale(synchronous: Outcome) -> None:
    summary, loop = synchronous.succeeded().summary, synchronous.config.loop
    assert summary["staleness"]["histogram"] == {"0": loop.steps * loop.batch}
    assert all(group.oldest_version == version for version, group in synchronous.trained())
    # The engine waits for every version, so none is skipped.
    assert [event["version"] for event in synchronous.events("published")] == list(range(loop.steps + 1))
    assert summary["publication"]["count"] == loop.steps + 1


def completions(groups: Iterable[Group]) -> dict[int, list[tuple[int, ...]]]:
    """Token ids of each group, by its admission index."""
    return {group.index: [tuple(c.token_ids.tolist()) for c in group.candidates] for group in groups}


def test_pacing_keeps_the_distribution_of_lengths(engine: Any, frozen: Outcome) -> None:
    """With weights that stay as they are, eta 4 trains just the completions that the plain loop would."""
    assert max(map(int, frozen.succeeded().summary["staleness"]["histogram"])) > 0
    config = frozen.config
    inputs = check_inputs(config)
    ray.get(engine.load.remote(publication(Policy(config, config.model.name, torch.device("cpu")), 0)))
    plain = completions(sample(engine, config, inputs, i) for i in range(config.loop.steps * config.loop.batch))
    assert completions(group for _, group in frozen.trained()) == plain
    lengths = Counter(len(tokens) for group in plain.values() for tokens in group)
    assert lengths.total() == 120
    assert len(lengths) > 1, "completions of one length only would show nothing"


def test_lr_0_changes_nothing(frozen: Outcome, tiny_model: Path) -> None:
    assert same_weights(frozen.succeeded().weights(), load_weights(tiny_model))
    summary = frozen.summary
    assert summary["win_rate"]["low"] <= 0.5 <= summary["win_rate"]["high"]
    assert summary["kl"] == 0
    assert all(line["kl"] == 0 and line["margin"] == 0 for line in frozen.metrics("step"))
    assert all(line["gradient_norm"] > 0 for line in frozen.metrics("step")), "there was something to learn"
    assert summary["mismatch"]["max_abs_logprob"] < 1e-5


def test_a_learning_rate_changes_something(synchronous: Outcome, tiny_model: Path) -> None:
    assert not same_weights(synchronous.succeeded().weights(), load_weights(tiny_model))
    assert synchronous.summary["kl"] != 0


def test_groups_carry_their_own_seeds(synchronous: Outcome) -> None:
    groups: list[Group] = [group for _, group in synchronous.succeeded().trained()]
    assert len({candidate.seed for group in groups for candidate in group.candidates}) == 3 * len(groups)
