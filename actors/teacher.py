"""The teacher: candidates that another model writes, as tokens of the policy under training.

A teacher at an endpoint or with another tokenizer gives texts, so every text is encoded with the policy's tokenizer,
and an end token follows where the teacher came to an end. What another model's log-probabilities of these tokens
would be is unknown: they are stored as NaN, so that no sum over them passes for a measurement.
"""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.config import AlignConfig, TeacherConfig
from actors.endpoint import Answer, CallBudget, Endpoint, EndpointError
from actors.records import (
    Candidate,
    GroupRequest,
    GroupSummary,
    Part,
    Sampling,
    VersionSpan,
    from_arrow,
    summarise,
    to_arrow,
)
from actors.rollout import RolloutEngine, engine_environment, joined

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

POLICY = "teacher"
CALLS_FILE = "teacher_calls"
"""In the run directory, as long in bytes as the endpoint got calls."""


class Teacher:
    """Writes the parts of groups that the policy `teacher` is asked for, at an endpoint or in an engine of its own."""

    def __init__(self, name: str, config: AlignConfig, run_directory: str) -> None:
        self.name = name
        self._config = config
        self._run_directory = run_directory

    def __repr__(self) -> str:
        return f"Teacher({self.name})"

    async def start(self) -> int:
        """Load what it needs; returns the process id. Idempotent.

        Raises: `EndpointError` when the endpoint's key is missing.
        """
        from actors.models import load_tokenizer, resolve_model

        if not hasattr(self, "_source"):
            self._tokenizer = load_tokenizer(resolve_model(self._config.model.name))
            self._source: Endpoint | RolloutEngine = (
                endpoint_of(configured(self._config), self._run_directory)
                if configured(self._config).endpoint
                else RolloutEngine(self.name, engine_config(self._config), (POLICY,))
            )
        if isinstance(self._source, RolloutEngine):
            await self._source.start()
        return os.getpid()

    @ray.method(num_returns=2)
    async def generate(
        self, request: GroupRequest, earlier: pa.RecordBatch | None = None
    ) -> tuple[GroupSummary, pa.RecordBatch]:
        """The teacher's candidates of one group, added to those of `earlier`; see `RolloutEngine.generate`.

        Raises: `EndpointError`, whose `name` is the reason for which the group is rejected.
        """
        from actors.models import render_prompt

        parts = [part for part in request.parts for _ in part.seeds]
        seeds = [seed for part in request.parts for seed in part.seeds]
        candidates = [
            self._candidate(answer, part, seed)
            for answer, part, seed in zip(await self._answers(request), parts, seeds, strict=True)
        ]
        prompt_ids = render_prompt(self._tokenizer, request.messages)
        group = joined(request, earlier, prompt_ids, candidates, self.name)
        return summarise(group), to_arrow([group])

    async def stop(self) -> None:
        """End its connections or its engine."""
        if isinstance(self._source, RolloutEngine):
            await self._source.stop()
        else:
            await self._source.close()

    async def _answers(self, request: GroupRequest) -> Sequence[Answer]:
        """One text for each seed of each part, in their order."""
        if isinstance(self._source, RolloutEngine):
            _, batch = await self._source.generate(request)
            return [Answer(text=c.text, complete=not c.truncated) for c in from_arrow(batch)[0].candidates]
        return await asyncio.gather(
            *(self._source.answer(request.messages, p.sampling, seed) for p in request.parts for seed in p.seeds)
        )

    def _candidate(self, answer: Answer, part: Part, seed: int) -> Candidate:
        token_ids, complete = encode(self._tokenizer, answer, part.sampling.max_new_tokens)
        return Candidate(
            seed=seed,
            role=part.role,
            policy=part.policy,
            sampling=part.sampling,
            token_ids=np.asarray(token_ids, dtype=np.int32),
            logprobs=np.full(len(token_ids), np.nan, dtype=np.float32),
            text=str(self._tokenizer.decode(token_ids, skip_special_tokens=True)),
            finish_reason="stop" if complete else "length",
            versions=(VersionSpan(version=0, start=0, end=len(token_ids)),),
        )


def encode(tokenizer: "PreTrainedTokenizerBase", answer: Answer, max_new_tokens: int) -> tuple[list[int], bool]:
    """Token ids of an answer as the policy would have written it, and whether it is complete.

    At most `max_new_tokens` ids, the end token of a complete answer among them. Special tokens that the text spells
    out stay text.
    """
    token_ids: list[int] = tokenizer(answer.text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    if answer.complete:
        token_ids.append(tokenizer.eos_token_id)
    return token_ids[:max_new_tokens], answer.complete and len(token_ids) <= max_new_tokens


def configured(config: AlignConfig) -> TeacherConfig:
    """The run's teacher, which has to be there when an objective asks for one."""
    if config.teacher is None:
        raise EndpointError(
            "the sampling plan names the policy `teacher`, but the configuration has no teacher", "teacher_failed"
        )
    return config.teacher


def endpoint_of(teacher: TeacherConfig, run_directory: str) -> Endpoint:
    """The teacher's endpoint, with what the run has left of its calls."""
    budget = CallBudget(Path(run_directory) / CALLS_FILE, teacher.max_calls or 0)
    return Endpoint(teacher, teacher.model, str(teacher.endpoint), budget)


def engine_config(config: AlignConfig) -> AlignConfig:
    """A configuration whose policy is the teacher's model, for an engine of its own."""
    teacher = configured(config)
    model = config.model.model_copy(update={"name": teacher.model})
    return config.model_copy(update={"model": model, "rollout": teacher.engine or config.rollout})


def probe(config: AlignConfig, run_directory: str) -> None:
    """One question to the endpoint, counted like the others, so that a person learns at once of one that fails.

    Raises: `EndpointError`, also when the run's calls are used up.
    """
    teacher, rollout = configured(config), config.rollout
    sampling = Sampling(
        temperature=rollout.temperature,
        top_p=rollout.top_p,
        top_k=rollout.top_k,
        max_new_tokens=rollout.max_new_tokens,
    )

    async def ask() -> None:
        source = endpoint_of(teacher, run_directory)
        await source.answer(({"role": "user", "content": "Say yes."},), sampling, seed=0)
        await source.close()

    asyncio.run(ask())


def create_teacher(name: str, config: AlignConfig, run_directory: str) -> Any:
    """The teacher's actor, to be called on the node that holds the run directory."""
    rollout = engine_config(config).rollout
    if configured(config).endpoint:
        # It counts its calls in the run directory, and computes nothing.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        placement: dict[str, Any] = {"num_cpus": 0, "scheduling_strategy": here}
    else:
        environment = {"env_vars": engine_environment(engine_config(config))}
        placement = {"num_cpus": rollout.cpus, "num_gpus": rollout.gpus, "runtime_env": environment}
    options = ray.remote(Teacher).options(max_concurrency=1000, **placement)
    return options.remote(name, config, run_directory)
