"""The rollout and scoring planes as the conductor uses them: work goes in, comes back as references, and is issued
again when the member that had it is lost."""

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import ray
from ray.exceptions import RayTaskError

from actors.config import AlignConfig, RolloutConfig
from actors.deadlines import DeadlineExceeded, within
from actors.pool import Member, MemberLost, Pool
from actors.records import GroupRequest, GroupSummary, Sampling
from actors.rollout import RolloutEngine, engine_environment
from actors.scorer import Comparison, Scorer


class Rejected(Exception):
    """A group that ends here, with the name of the reason and a sentence."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(detail)
        self.name = name


class Planes:
    """Pools of engines and scorers, and the three things that are asked of them."""

    def __init__(
        self,
        config: AlignConfig,
        prepare_engine: Callable[[Member], Awaitable[None]],
        on_pool_event: Callable[[str, str, str], None],
        on_event: Callable[..., None],
    ) -> None:
        self._config = config
        self._on_event = on_event
        deadline = config.deadlines.start
        engines = [f"engine-{i}" for i in range(config.rollout.engines)]
        scorers = [f"scorer-{i}" for i in range(config.scoring.scorers)]
        self.engines = Pool(
            engines, self._create_engine, prepare_engine, start_deadline=deadline, on_event=on_pool_event
        )
        # One group each: a deadline must not run while its group waits behind another one that hangs.
        self.scorers = Pool(scorers, self._create_scorer, slots=1, start_deadline=deadline, on_event=on_pool_event)

    async def generate(self, request: GroupRequest) -> tuple[GroupSummary, Any]:
        """Sample a group; returns its summary and a reference to its record batch.

        Raises: `Rejected` when the request is at fault, or when it was lost too often.
        """
        deadlines, last = self._config.deadlines, ""
        for _ in range(self._config.rollout.attempts):
            try:
                async with self.engines.use(deadlines.start) as engine:
                    summary, payload = engine.handle.generate.remote(request)
                    what = f"{engine.name} to generate group {request.id} (deadlines.generate)"
                    return await within(deadlines.generate, summary, what), payload
            except MemberLost as lost:
                last = str(lost)
                self._on_event("reissued", group=request.id, plane="rollout", detail=last)
            except RayTaskError as error:
                raise Rejected("generation_failed", cause_of(error)) from error
        raise Rejected("generation_failed", last)

    async def score(self, payload: Any) -> tuple[GroupSummary, Any]:
        """Judge a sampled group; returns its summary and a reference to the scored record batch.

        Raises: `Rejected` with the judge's reason, or when its scorers were lost too often.
        """
        deadlines, last = self._config.deadlines, ""
        for _ in range(self._config.scoring.attempts):
            try:
                async with self.scorers.use(deadlines.start) as scorer:
                    verdict, scored = scorer.handle.score.remote(payload)
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
        for _ in range(self._config.scoring.attempts):
            with contextlib.suppress(MemberLost):
                async with self.scorers.use(self._config.deadlines.start) as scorer:
                    return await within(
                        self._config.deadlines.score,
                        scorer.handle.compare.remote(start, current),
                        f"{scorer.name} to compare two completions (deadlines.score)",
                    )
        raise DeadlineExceeded("no scorer could compare held-out completions")

    def _create_engine(self, name: str) -> Any:
        rollout = self._config.rollout
        options = ray.remote(RolloutEngine).options(
            num_cpus=rollout.cpus,
            num_gpus=rollout.gpus,
            max_concurrency=1000,
            runtime_env={"env_vars": engine_environment(self._config)},
        )
        return options.remote(name, self._config)

    def _create_scorer(self, name: str) -> Any:
        return ray.remote(Scorer).options(num_cpus=self._config.scoring.cpus).remote(name, self._config.scoring)


def sampling_of(rollout: RolloutConfig) -> Sampling:
    """The distribution that a configuration samples from."""
    return Sampling(
        temperature=rollout.temperature,
        top_p=rollout.top_p,
        top_k=rollout.top_k,
        max_new_tokens=rollout.max_new_tokens,
    )


def cause_of(error: BaseException) -> str:
    """The message of an error, without the trace that Ray wraps around it."""
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {cause}"
