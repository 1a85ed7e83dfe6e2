"""Generation in the loop runs at no less than 0.9 of bare vLLM's tokens per second.

Ours is a `RolloutEngine` actor, asked group by group through Ray as the conductor asks it, with a rendered chat
template, a seed a candidate, log-probabilities and Arrow records on the way back. Bare is vLLM's `AsyncLLM` with the
same engine arguments, weights (or adapter), threads, token ids and sampling parameters, in one call. Both engines are
loaded and take turns; an idle engine costs nothing.
"""

import asyncio
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch

from actors.config import AlignConfig
from actors.models import load_tokenizer, render_prompt, resolve_model
from actors.policy import Policy
from actors.prompts import load_prompts
from actors.publication import Publication, build_transport, serialise
from actors.records import GroupRequest, Part, Sampling, derive_seed
from actors.rollout import POLICY, RolloutEngine, engine_arguments, engine_environment
from benchmarks.measure import ratios, take_turns
from benchmarks.models import make_llama
from benchmarks.results import Figure
from benchmarks.runs import PROMPTS, configuration
from workflows.align import connect

TARGET = 0.9
CANDIDATES = 4
SEQUENCES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One model and how much of it is generated a turn."""

    name: str
    config: AlignConfig
    groups: int


class BareEngine:
    """vLLM's own asynchronous engine, and nothing else."""

    def __init__(self, arguments: dict[str, Any], adapter: str | None) -> None:
        self._arguments = arguments
        self._adapter = adapter

    async def start(self) -> None:
        """Load the model."""
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**self._arguments))

    async def generate(self, requests: Sequence[tuple[list[int], int]], sampling: Sampling, name: str) -> int:
        """Complete every (prompt, seed); returns the number of tokens."""
        tasks = (self._complete(f"{name}-{i}", ids, seed, sampling) for i, (ids, seed) in enumerate(requests))
        return sum(await asyncio.gather(*tasks))

    async def stop(self) -> None:
        """End the engine's processes."""
        self._engine.shutdown()

    async def _complete(self, name: str, prompt_ids: list[int], seed: int, sampling: Sampling) -> int:
        from vllm import SamplingParams
        from vllm.lora.request import LoRARequest
        from vllm.sampling_params import RequestOutputKind

        parameters = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=sampling.max_new_tokens,
            seed=seed,
            logprobs=0,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        adapter = LoRARequest(POLICY, 1, self._adapter) if self._adapter else None
        last: Any = None
        async for output in self._engine.generate(
            {"prompt_token_ids": prompt_ids}, parameters, name, lora_request=adapter
        ):
            last = output
        return len(last.outputs[0].token_ids)


def run(quick: bool) -> list[Figure]:
    """Tiny Llama with full weights, and the demo's model under an adapter."""
    connect(None)
    with tempfile.TemporaryDirectory(prefix="nashloop-benchmark-") as folder:
        tiny = make_llama(Path(folder) / "llama", tied=False)
        rollout = {"max_sequences": SEQUENCES, "kv_cache_gib": 0.5}
        cases = [
            Case(name="Llama 5M", config=configuration(tiny, {"rollout": rollout}), groups=32 if quick else 96),
            Case(
                name="SmolLM2-135M with LoRA",
                config=configuration(
                    "smollm2-135m-instruct",
                    {"model": {"dtype": "bfloat16"}, "rollout": rollout, "learner": {"method": "lora"}},
                ),
                groups=16 if quick else 32,
            ),
        ]
        return [figure for case in cases for figure in _compare(case, Path(folder), 2 if quick else 5)]


def _compare(case: Case, folder: Path, turns: int) -> list[Figure]:
    config = case.config
    model = resolve_model(config.model.name)
    tokenizer = load_tokenizer(model)
    prompts = [record.messages for record in load_prompts(PROMPTS)[: case.groups]]
    rendered = [render_prompt(tokenizer, messages) for messages in prompts]
    policy = Policy(config, model, torch.device("cpu"))
    adapter = _save_adapter(policy, folder / "adapter")
    environment = {"runtime_env": {"env_vars": engine_environment(config)}, "num_cpus": 0, "max_concurrency": 1000}
    bare: Any = ray.remote(BareEngine).options(**environment).remote(engine_arguments(config, model), adapter)
    ours: Any = ray.remote(RolloutEngine).options(**environment).remote("engine-0", config)
    ray.get([bare.start.remote(), ours.start.remote()])
    ray.get(ours.load.remote(_publication(config, policy, [tuple(ids[-16:]) for ids in rendered[:4]])))
    del policy
    sampling = Sampling(temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=config.rollout.max_new_tokens)

    def through_the_actor(turn: int) -> float:
        requests = [
            GroupRequest(
                id=f"turn{turn}-{i}",
                index=i,
                epoch=0,
                version=0,
                messages=messages,
                parts=(Part(role="pair", policy=POLICY, seeds=_seeds(turn, i), sampling=sampling),),
            )
            for i, messages in enumerate(prompts)
        ]
        began = time.perf_counter()
        summaries = ray.get([ours.generate.remote(request)[0] for request in requests])
        return sum(sum(summary.lengths) for summary in summaries) / (time.perf_counter() - began)

    def bare_vllm(turn: int) -> float:
        requests = [(ids, seed) for i, ids in enumerate(rendered) for seed in _seeds(turn, i)]
        began = time.perf_counter()
        tokens: int = ray.get(bare.generate.remote(requests, sampling, f"turn{turn}"))
        return tokens / (time.perf_counter() - began)

    try:
        through_the_actor(-1), bare_vllm(-1)
        values = take_turns({"ours": through_the_actor, "bare": bare_vllm}, turns)
        ray.get([ours.stop.remote(), bare.stop.remote()])
    finally:
        ray.kill(ours)
        ray.kill(bare)
    return [
        Figure(name=f"{case.name}: in the loop", values=tuple(values["ours"]), unit="tokens/s"),
        Figure(name=f"{case.name}: bare vLLM", values=tuple(values["bare"]), unit="tokens/s"),
        Figure(
            name=f"{case.name}: in the loop / bare",
            values=tuple(ratios(values["ours"], values["bare"])),
            target=TARGET,
            note=f"{case.groups * CANDIDATES} completions of up to {sampling.max_new_tokens} tokens a turn, "
            f"{SEQUENCES} at once",
        ),
    ]


def _seeds(turn: int, group: int) -> tuple[int, ...]:
    return tuple(derive_seed("benchmark", turn, group, k) for k in range(CANDIDATES))


def _publication(config: AlignConfig, policy: Policy, canaries: list[tuple[int, ...]]) -> Publication:
    payload, checksums = serialise(policy.published_tensors())
    return Publication(
        version=0,
        payload=build_transport(config.publication).send(payload),
        checksums=checksums,
        adapter_config=policy.adapter_config(),
        canaries=tuple(canaries),
        canary_logprobs=policy.canary_logprobs(canaries),
    )


def _save_adapter(policy: Policy, folder: Path) -> str | None:
    import safetensors.torch

    description = policy.adapter_config()
    if description is None:
        return None
    folder.mkdir()
    (folder / "adapter_config.json").write_text(description)
    safetensors.torch.save_file(policy.published_tensors(), folder / "adapter_model.safetensors")
    return str(folder)
