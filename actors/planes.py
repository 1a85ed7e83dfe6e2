"""The rollout and scoring planes as the conductor uses them: work goes in, comes back as references, and is issued
again when the member that had it is lost."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayTaskError

from actors.config import AlignConfig, RolloutConfig
from actors.deadlines import DeadlineExceeded, within
from actors.endpoint import EndpointError
from actors.pool import Member, MemberLost, Pool
from actors.records import GroupRequest, GroupSummary, Part, Sampling
from actors.rollout import RolloutEngine, engine_environment
from actors.scorer import Comparison, create_scorer
from actors.scorers.state import ScoringRounds, ScoringState
from actors.teacher import create_teacher
from algorithms.sampling import FIXED, Role

TEACHER = ("teacher",)
"""The policies of the pool with another model."""


class Rejected(Exception):
    """A group that ends here, with the name of the reason and a sentence."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(detail)
        self.name = name


class Planes:
    """Pools of engines and scorers, and the three things that are asked of them.

    With LoRA one pool serves every named policy; with full weights each has a pool of its own, of the same size.
    """

    def __init__(
        self,
        config: AlignConfig,
        policies: Sequence[str],
        run_directory: str,
        prepare_engine: Callable[[Member], Awaitable[None]],
        on_pool_event: Callable[[str, str, str], None],
        on_event: Callable[..., None],
    ) -> None:
        self._config = config
        self._run_directory = run_directory
        self._on_event = on_event
        deadline = config.deadlines.start
        self._samplers: list[tuple[tuple[str, ...], Pool]] = []
        for served in sampler_pools(policies, config.learner.method):
            label, taught = "engine" if policies[0] in served else served[0], served == TEACHER
            # A deadline must not run while its group waits for one of the endpoint's few calls.
            slots = config.teacher.concurrency if taught and config.teacher and config.teacher.endpoint else None
            pool = Pool(
                [f"{label}-{i}" for i in range(1 if taught else config.rollout.engines)],
                self._create_teacher if taught else partial(self._create_sampler, served),
                prepare_engine,
                slots=slots,
                start_deadline=deadline,
                on_event=on_pool_event,
            )
            self._samplers.append((served, pool))
        self.scoring = ScoringRounds(config.scoring)
        scorers = [f"scorer-{i}" for i in range(config.scoring.scorers)]
        # One group each: a deadline must not run while its group waits behind another one that hangs.
        self.scorers = Pool(scorers, self._create_scorer, slots=1, start_deadline=deadline, on_event=on_pool_event)

    @property
    def samplers(self) -> list[Pool]:
        """Every pool that writes candidates."""
        return [pool for _, pool in self._samplers]

    @property
    def engines(self) -> list[Member]:
        """Every member of these pools."""
        return [member for pool in self.samplers for member in pool.members]

    def serves(self, member: Member) -> tuple[str, ...]:
        """Published policies that a member of a pool samples from."""
        served = next(served for served, pool in self._samplers if member in pool.members)
        return tuple(policy for policy in served if policy not in FIXED)

    def served_version(self) -> int:
        """The oldest version that an engine samples from at this moment; -1 where a pool has none ready."""
        pools = [pool.ready() for served, pool in self._samplers if set(served) - set(FIXED)]
        return min((member.version for ready in pools for member in ready), default=-1) if all(pools) else -1

    def busy_seconds(self) -> tuple[float, float]:
        """Busy seconds of all engines, and of all scorers."""
        return sum(pool.busy_seconds() for pool in self.samplers), self.scorers.busy_seconds()

    async def generate(self, request: GroupRequest, earlier: Any = None) -> tuple[GroupSummary, Any]:
        """Sample the parts of a group, behind the candidates of `earlier`, a reference to its record batch.

        Returns: the group's summary and a reference to its record batch.
        Raises: `Rejected` when the request is at fault, or when it was lost too often.
        """
        summary = None
        for pool, parts in self._by_pool(request.parts):
            summary, earlier = await self._ask(pool, replace(request, parts=parts), earlier)
        assert summary is not None
        return summary, earlier

    def _by_pool(self, parts: Sequence[Part]) -> list[tuple[Pool, tuple[Part, ...]]]:
        """Parts in their order, those that follow each other in one pool together."""
        asked: list[tuple[Pool, tuple[Part, ...]]] = []
        for part in parts:
            pool = next(pool for served, pool in self._samplers if part.policy in served)
            if asked and asked[-1][0] is pool:
                asked[-1] = (pool, (*asked[-1][1], part))
            else:
                asked.append((pool, (part,)))
        return asked

    async def _ask(self, pool: Pool, request: GroupRequest, earlier: Any) -> tuple[GroupSummary, Any]:
        deadlines, last = self._config.deadlines, ""
        for _ in range(self._config.rollout.attempts):
            try:
                async with pool.use(deadlines.start) as engine:
                    summary, payload = engine.handle.generate.remote(request, earlier)
                    what = f"{engine.name} to generate group {request.id} (deadlines.generate)"
                    return await within(deadlines.generate, summary, what), payload
            except MemberLost as lost:
                last = str(lost)
                self._on_event("reissued", group=request.id, plane="rollout", detail=last)
            except RayTaskError as error:
                reason = error.cause.name if isinstance(error.cause, EndpointError) else "generation_failed"
                raise Rejected(reason, cause_of(error)) from error
        raise Rejected("generation_failed", last)

    async def score(self, payload: Any) -> tuple[GroupSummary, Any]:
        """Judge a sampled group; returns its summary and a reference to the scored record batch.

        Raises: `Rejected` with the judge's reason, or when its scorers were lost too often.
        """
        deadlines, last = self._config.deadlines, ""
        state = await self._scoring_state()
        for _ in range(self._config.scoring.attempts):
            try:
                async with self.scorers.use(deadlines.start) as scorer:
                    verdict, scored = scorer.handle.score.remote(payload, state)
                    summary, detail = await within(
                        deadlines.score, verdict, f"{scorer.name} to score a group (deadlines.score)"
                    )
                if summary.rejection:
                    raise Rejected(summary.rejection, detail)
                return summary, scored
            except MemberLost as lost:
                last = str(lost)
                self._on_event("reissued", plane="scoring", detail=last)
        raise Rejected("scorer_lost", last)

    async def compare(self, start: Any, current: Any) -> Comparison:
        """Judge held-out completions of two policies, each a record batch or a reference to one."""
        state = await self._scoring_state()
        found: Comparison = await self._ask_scorer("compare", start, current, state)
        return found

    async def calibrate(self, batches: Sequence[Any]) -> None:
        """Bring the scorers' members to one scale, from completions of the start, unless they have it or need none."""
        if not self.scoring.calibrated:
            found = await asyncio.gather(*(self._ask_scorer("rewards", batch) for batch in batches))
            self.scoring.calibrate(np.concatenate([rewards for _, rewards in found]), found[0][0])

    async def _ask_scorer(self, method: str, *arguments: Any) -> Any:
        """What a scorer says of held-out completions."""
        for _ in range(self._config.scoring.attempts):
            with contextlib.suppress(MemberLost):
                async with self.scorers.use(self._config.deadlines.start) as scorer:
                    return await within(
                        self._config.deadlines.score,
                        getattr(scorer.handle, method).remote(*arguments),
                        f"{scorer.name} to judge held-out completions (deadlines.score)",
                    )
        raise DeadlineExceeded("no scorer could judge held-out completions")

    async def _scoring_state(self) -> ScoringState:
        what = "the scorers' scale on the start's answers to the held-out prompts (deadlines.start)"
        return await within(self._config.deadlines.start, self.scoring.state(), what)

    def _create_sampler(self, policies: tuple[str, ...], name: str) -> Any:
        rollout = self._config.rollout
        options = ray.remote(RolloutEngine).options(
            num_cpus=rollout.cpus,
            num_gpus=rollout.gpus,
            max_concurrency=1000,
            runtime_env={"env_vars": engine_environment(self._config)},
        )
        return options.remote(name, self._config, policies)

    def _create_teacher(self, name: str) -> Any:
        return create_teacher(name, self._config, self._run_directory)

    def _create_scorer(self, name: str) -> Any:
        return create_scorer(name, self._config.scoring, self._run_directory)


def sampler_pools(policies: Sequence[str], method: str) -> list[tuple[str, ...]]:
    """Which policies share a pool of engines."""
    own = [policy for policy in policies if method != "lora" or policy == "teacher"]
    shared = tuple(policy for policy in policies if policy not in own)
    return [*([shared] if shared else []), *((policy,) for policy in own)]


def sampling_of(rollout: RolloutConfig, role: Role | None = None) -> Sampling:
    """The distribution that a configuration samples a role from."""
    temperature = role.temperature if role else None
    top_k = role.top_k if role else None
    return Sampling(
        temperature=rollout.temperature if temperature is None else temperature,
        top_p=rollout.top_p,
        top_k=rollout.top_k if top_k is None else top_k,
        max_new_tokens=rollout.max_new_tokens,
    )


def cause_of(error: BaseException) -> str:
    """The message of an error, without the trace that Ray wraps around it."""
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {cause}"
