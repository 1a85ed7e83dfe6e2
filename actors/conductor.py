"""The conductor: admits groups, routes them by reference, decides batches, proves publications, keeps the ledger.

What it guarantees: every admitted group ends as trained or rejected with a named reason; no group is trained more
than `eta` versions after the weights that sampled it; no wait is endless; a lost engine or scorer is replaced and its
groups are issued again, as the same groups. No text and no token passes through it, only references and counts.
"""

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from typing import Any

import ray

from actors.buffer import ExperienceBuffer, RunStopped
from actors.config import AlignConfig
from actors.deadlines import within
from actors.evaluation import Evaluator
from actors.planes import Planes, Rejected, cause_of
from actors.pool import Member
from actors.publication import Publication
from actors.publisher import Publisher
from actors.records import GroupRequest, GroupSummary, Message
from actors.requests import Requests
from actors.run_record import RunRecord
from actors.scorer import Comparison
from algorithms.ledger import Ledger
from algorithms.objective import build_objective
from algorithms.pacing import capacity, near_groups, next_batch, staleness_slack
from algorithms.sampling import served_policies

RELEASED_AHEAD = 2
"""Batches with the learner at once: the one in training, and the next, which it fetches meanwhile."""


class Conductor:
    """One asynchronous loop; see the module's contract."""

    def __init__(
        self,
        config: AlignConfig,
        prompts: Sequence[tuple[Message, ...]],
        heldout: Sequence[tuple[Message, ...]],
        run_directory: str,
    ) -> None:
        self._config = config
        objective = build_objective(config.objective.name, config.objective.options)
        self._requests = Requests(config, objective, prompts)
        self._slack = staleness_slack(config.loop.lookahead, config.loop.batch)
        self._ledger = Ledger()
        self._version = -1
        self._summaries: dict[int, GroupSummary] = {}
        self._batches: dict[int, list[int]] = {}
        self._trained_versions: dict[int, asyncio.Event] = {}
        self._failure: str | None = None
        self._finished = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._due: set[asyncio.Task[None]] = set()
        self._samples: list[Comparison] = []
        self._last_detail = ""
        self._waiting: dict[int, asyncio.Event] = {}
        """Groups whose opponents wait until their batch is near, by admission index."""
        self._buffer: Any = ray.remote(ExperienceBuffer).options(num_cpus=0).remote(f"{run_directory}/experience")
        policies = served_policies(objective.sampling, objective.update)
        self._planes = Planes(config, policies, run_directory, self._prepare, self._pool_event, self._event)
        evaluated = objective.update.evaluated
        self._record = RunRecord(
            run_directory, objective=objective, engines=len(self._planes.engines), scorers=config.scoring.scorers
        )
        self._publisher = Publisher(config, self._planes.serves, evaluated, self._record.published, self._advance)
        self._publisher.watch(self._planes.engines)
        self._evaluator = Evaluator(config, heldout, self._planes, evaluated, run_directory) if heldout else None

    def __repr__(self) -> str:
        return "Conductor"

    # ---- what the driver calls ------------------------------------------------------------------------------

    async def start(self) -> Any:
        """Begin to bring up engines and scorers; returns the buffer's handle at once."""
        for pool in (*self._planes.samplers, self._planes.scorers):
            for task in pool.start():
                self._watch(task)
        for member in self._planes.engines:
            self._spawn(self._publisher.follow(member))
        self._spawn(self._expect_learner())
        return self._buffer

    async def status(self) -> dict[str, Any]:
        """Where the run is, for progress and for finding out why it stopped."""
        return {
            "version": self._version,
            "engines_ready": sum(member.ready for member in self._planes.engines),
            "ledger": self._ledger.counts(),
            "failure": self._failure,
            "finished": self._finished.is_set(),
            **self._record.status(self._busy()),
        }

    async def result(self) -> dict[str, Any]:
        """Wait for the end; the figures of `summary.json` and the comparisons of the last evaluation."""
        await self._finished.wait()
        return {
            "failure": self._failure,
            "version": self._version,
            "ledger": self._ledger.counts(),
            "rejections": dict(self._ledger.rejections),
            "restarts": {
                "engines": sum(pool.restarts for pool in self._planes.samplers),
                "scorers": self._planes.scorers.restarts,
            },
            "comparisons": self._samples,
            **self._record.summary(self._busy(), self._config.loop.eta, self._requests.late_bound),
        }

    async def ended(self) -> None:
        """Wait for the end, good or bad."""
        await self._finished.wait()

    async def stop(self, reason: str) -> None:
        """End the run from outside; everything that waits is told why."""
        await self._fail(reason)

    async def close(self) -> None:
        """Give engines and scorers back."""
        for task in self._tasks:
            task.cancel()
        ready = [member for member in self._planes.engines if member.ready]
        await asyncio.gather(*(asyncio.wait_for(m.handle.stop.remote(), 10) for m in ready), return_exceptions=True)
        for pool in (*self._planes.samplers, self._planes.scorers):
            pool.kill()
        self._record.close()

    # ---- what the learner calls -----------------------------------------------------------------------------

    async def begin(
        self, version: int, snapshot: dict[str, Any] | None, publications: Sequence[Publication], process: int
    ) -> None:
        """The learner holds `version`: start the loop there; if it already runs, the learner is catching up.

        `snapshot` was saved with the checkpoint that the learner restored; none at the very start. `process` is the
        id of the first worker's process.
        """
        self._record.event("ready", member="learner", detail=f"process {process}")
        if self._version >= 0:
            self._record.event("learner_restarted", version=version)
            # What its predecessor published may have died with it, and engines may still need it.
            await self._publisher.publish(publications, 0.0)
            return
        if snapshot is None:
            self._record.begin()
        else:
            self._ledger = Ledger.restore(snapshot["ledger"])
            self._record.resume(snapshot["record"], version)
            self._planes.scoring.resume(snapshot["scoring"])
            self._record.event("resumed", version=version, **self._ledger.counts())
        await self._buffer.begin.remote(version)
        self._version = version
        if self._evaluator:
            await self._publisher.hold(version)
            self._owe(self._sample_start())
        self._keep_canaries(publications)
        await self._publisher.publish(publications, 0.0)
        for index in self._ledger.in_flight:
            self._spawn(self._process(index))
        if version == self._config.loop.steps:
            self._spawn(self._finish())
        self._advance()

    async def trained(self, version: int, metrics: dict[str, Any]) -> None:
        """The learner has reached `version`. One that it replays after a restart counts nothing twice."""
        if version <= self._version:
            return
        indices = self._batches.pop(version - 1)
        self._trained_versions[version - 1].set()
        self._version = version
        self._ledger.train(indices)
        summaries = [self._summaries.pop(index) for index in indices]
        for summary in summaries:
            sampled = min(source.version for source in summary.sources)
            self._record.event("trained", group=summary.id, version=version - 1, sampled=sampled)
        metrics |= self._planes.scoring.trained(summaries)
        self._record.step(version, metrics, self._busy(), self._ledger.counts())
        self._owe(self._write_batch(version - 1))
        self._plan_evaluation()
        self._advance()

    async def publish(self, publications: Sequence[Publication], blocked: float) -> None:
        """New weights for the engines; making them blocked the learner for so many seconds."""
        if publications:
            self._keep_canaries(publications)
            await self._publisher.publish(publications, blocked)

    async def snapshot(self) -> dict[str, Any]:
        """What a resumed run needs besides the learner's own state.

        Raises: `RunStopped` when the run was stopped.
        """
        # A resumed run can neither write what was trained before its checkpoint nor sample from the start again.
        await asyncio.gather(*self._due)
        if self._failure:
            raise RunStopped(self._failure)
        parts: dict[str, Any] = {"ledger": self._ledger, "record": self._record, "scoring": self._planes.scoring}
        return {name: part.snapshot() for name, part in parts.items()}

    # ---- admission and batches ------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Release what the window allows, admit what the capacity formula allows. Called after every change."""
        if self._failure or self._version < 0:
            return
        loop = self._config.loop
        while len(self._batches) < RELEASED_AHEAD:
            indices = next_batch(self._ledger.window(), loop.batch, loop.lookahead, self._ledger.overtakers)
            if indices is None:
                break
            self._release(self._version + len(self._batches), indices)
        wanted = loop.steps * loop.batch - (self._ledger.accepted + self._ledger.running)
        for _ in range(min(wanted, self._capacity())):
            self._spawn(self._process(self._ledger.admit()))
        for index in self._near():
            if index in self._waiting:
                self._waiting[index].set()

    def _near(self) -> list[int]:
        """Groups whose batch is so near that what is sampled for them now is fresh enough."""
        count = near_groups(
            bound=self._requests.late_bound - self._slack,
            version=self._planes.served_version(),
            batch=self._config.loop.batch,
            trained=self._ledger.trained,
        )
        return self._ledger.oldest(count)

    def _capacity(self) -> int:
        served = self._planes.served_version()
        if served < 0:
            return 0
        return capacity(
            max_running=self._config.rollout.max_running,
            running=self._ledger.running,
            eta=self._config.loop.eta - self._slack,
            version=served,
            batch=self._config.loop.batch,
            accepted=self._ledger.accepted,
        )

    def _release(self, version: int, indices: list[int]) -> None:
        self._batches[version] = indices
        self._trained_versions[version] = asyncio.Event()
        self._ledger.release(indices)
        self._record.released(version, [self._summaries[i].sources for i in indices], self._busy())
        self._spawn(self._hand_over(version, indices))

    async def _hand_over(self, version: int, indices: list[int]) -> None:
        """Give a batch to the learner and expect its update."""
        deadlines = self._config.deadlines
        await within(deadlines.score, self._buffer.release.remote(version, indices), "the buffer to release a batch")
        what = f"the learner to train version {version} (deadlines.step)"
        await within(deadlines.step, self._trained_versions[version].wait(), what)
        del self._trained_versions[version]

    async def _write_batch(self, version: int) -> None:
        try:
            await self._buffer.trained.remote(version)
        except OSError as error:
            await self._fail(f"writing the experience of version {version} failed: {cause_of(error)}")

    # ---- one group ------------------------------------------------------------------------------------------

    async def _process(self, index: int) -> None:
        request = self._requests.early(index, max(self._planes.served_version(), 0))
        self._record.event("admitted", group=request.id, version=request.version)
        try:
            summary, payload = await self._sample(request)
            self._record.generated(summary)
            summary, scored = await self._planes.score(payload)
            await within(self._config.deadlines.score, self._buffer.put.remote(summary, scored), "the buffer")
        except Rejected as rejected:
            self._last_detail = str(rejected)
            self._ledger.reject(index, rejected.name)
            self._record.event("rejected", group=request.id, reason=rejected.name, detail=str(rejected))
            await self._check_rejections()
        else:
            self._summaries[index] = summary
            self._ledger.accept(index)
            self._record.event("scored", group=request.id, lengths=summary.lengths, truncated=summary.truncated)
        self._advance()

    async def _sample(self, request: GroupRequest) -> tuple[GroupSummary, Any]:
        """All candidates of a group: at once, but for the roles that wait until its batch is near."""
        sampled = await self._planes.generate(request) if request.parts else None
        if self._requests.waits:
            if request.index not in self._near():
                event = self._waiting[request.index] = asyncio.Event()
                await event.wait()
                del self._waiting[request.index]
            late = self._requests.late(request.index, self._planes.served_version())
            sampled = await self._planes.generate(late, sampled[1] if sampled else None)
        assert sampled is not None
        return sampled

    async def _check_rejections(self) -> None:
        scoring = self._config.scoring
        finished = self._ledger.accepted + self._ledger.rejected
        if finished >= scoring.min_finished and self._ledger.rejected > scoring.max_rejected_share * finished:
            await self._fail(
                f"{self._ledger.rejected} of {finished} groups were rejected, more than the share "
                f"{scoring.max_rejected_share:g} that scoring.max_rejected_share allows; reasons: "
                f"{dict(self._ledger.rejections)}; the last one: {self._last_detail}"
            )

    # ---- evaluation and the end -----------------------------------------------------------------------------

    async def _sample_start(self) -> None:
        assert self._evaluator is not None
        await self._evaluator.sample_start()
        await self._planes.calibrate(self._evaluator.start)
        await self._publisher.hold(None)

    def _plan_evaluation(self) -> None:
        every = self._config.evaluation.every
        if self._version == self._config.loop.steps:
            self._spawn(self._finish())
        elif every and self._version % every == 0 and self._evaluator:
            self._spawn(self._evaluate(self._version, final=False))

    async def _evaluate(self, version: int, final: bool) -> None:
        assert self._evaluator is not None
        figures, comparisons = await self._evaluator.evaluate(version, final)
        self._record.evaluation(version, figures)
        if final:
            self._samples = comparisons

    async def _finish(self) -> None:
        """All groups are trained: wait for the last version to be proved, evaluate it, and end."""
        publish = self._config.deadlines.publish
        for member in self._planes.engines:
            what = f"{member.name} to load the last version (deadlines.publish)"
            await within(publish, self._publisher.reached(member, self._version), what)
        if self._evaluator:
            await self._evaluate(self._version, final=True)
        self._record.event("finished", **self._ledger.counts())
        self._finished.set()

    # ---- supervision ----------------------------------------------------------------------------------------

    async def _prepare(self, member: Member) -> None:
        await self._publisher.prepare(member)

    def _event(self, name: str, **fields: Any) -> None:
        self._record.event(name, **fields)

    def _keep_canaries(self, publications: Sequence[Publication]) -> None:
        if self._config.publication.record_canaries:
            for entry in publications:
                self._record.canaries(entry.version, entry.policy, entry.canary_logprobs)

    def _pool_event(self, event: str, member: str, detail: str) -> None:
        self._record.event(event, member=member, detail=detail)
        self._advance()

    def _busy(self) -> tuple[float, float]:
        return self._planes.busy_seconds()

    async def _expect_learner(self) -> None:
        deadline = self._config.deadlines.start
        await asyncio.sleep(deadline)
        if self._version < 0:
            await self._fail(f"waited {deadline:g} s for the learner's workers to start (deadlines.start)")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._watch(task)
        return task

    def _owe(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin something that has to be on disk before the next checkpoint is."""
        task = self._spawn(work)
        self._due.add(task)
        task.add_done_callback(self._due.discard)

    def _watch(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._spawn(self._fail(cause_of(error)))

    async def _fail(self, reason: str) -> None:
        """Stop the run, once; the first reason is the one that counts."""
        if self._failure or self._finished.is_set():
            return
        self._failure = reason
        self._finished.set()
        with contextlib.suppress(OSError):  # a disk that is full can't be told so
            self._record.event("failed", reason=reason)
        await self._buffer.stop.remote(reason)
