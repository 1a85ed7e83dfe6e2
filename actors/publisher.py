"""Brings every engine to the newest published weights of the policies it serves, and knows what they all serve.

The learner never waits here. An engine that is still loading skips to the newest weights afterwards; one that was
replaced loads them before it serves. A publication that cannot be proved ends the run.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from ray.exceptions import ObjectLostError

from actors.config import AlignConfig
from actors.deadlines import within
from actors.pool import LOSSES, Member
from actors.publication import LoadReport, Publication
from algorithms.sampling import steps_back

Weights = dict[str, Publication]
"""The newest publication of each policy."""


class Publisher:
    """Publications on their way to the engines.

    `serves(member)`: the published policies that a member samples from. `evaluated`: the policy of which
    `previous(k)` are earlier versions. `on_loaded`: every engine that had to load a version has it. `on_reached`: one
    engine serves a newer version than before.
    """

    def __init__(
        self,
        config: AlignConfig,
        serves: Callable[[Member], Sequence[str]],
        evaluated: str,
        on_loaded: Callable[[list[LoadReport], float, float], None],
        on_reached: Callable[[], None],
    ) -> None:
        self._deadlines = config.deadlines
        self._serves = serves
        self._evaluated = evaluated
        self._on_loaded = on_loaded
        self._on_reached = on_reached
        self._members: list[Member] = []
        self._newest: Weights = {}
        self._version = -1
        self._history: list[Publication] = []
        self._depth = 0
        self._sent_at = 0.0
        self._blocked_seconds = 0.0
        self._reports: dict[int, dict[str, LoadReport]] = {}
        self._expected: dict[int, frozenset[str]] = {}
        """Names of the engines that have to load something for a version."""
        self._changed = asyncio.Condition()
        self._served = -1
        self._held_at: int | None = None
        self._held: Weights = {}

    def watch(self, members: Sequence[Member]) -> None:
        """The members that have to load what is published, before they start."""
        self._members = [member for member in members if self._serves(member)]
        self._depth = max((steps_back(p) or 0 for member in self._members for p in self._serves(member)), default=0)

    async def publish(self, publications: Sequence[Publication], blocked_seconds: float) -> None:
        """Offer the weights of a version; `blocked_seconds` is what it cost the learner.

        A learner that catches up publishes old versions again: they replace payloads that may have died with its
        predecessor, and nothing newer.
        """
        async with self._changed:
            for publication in publications:
                self._take(publication)
            version = max(p.version for p in publications)
            if version > self._version:
                self._version = version
                names = {publication.policy for publication in publications}
                self._expected[version] = frozenset(m.name for m in self._members if self._needs(m, names))
            if self._held_at is not None and self._version <= self._held_at:
                self._held = dict(self._newest)
            self._sent_at = time.monotonic()
            self._blocked_seconds = blocked_seconds
            self._changed.notify_all()

    async def hold(self, version: int | None) -> None:
        """Let no engine go beyond `version` for now; none lets them go on."""
        async with self._changed:
            self._held_at, self._held = version, {}
            self._changed.notify_all()

    async def prepare(self, member: Member) -> None:
        """Load the newest weights into a fresh engine, waiting for the first ones if need be.

        Groups may have been admitted for any version that some engine served; none is sampled from older weights.
        """
        if not self._serves(member):
            return
        member.loaded = {}
        await self._load(member, fresh=True)
        while member.version < self._served:
            await self._load(member, fresh=True)

    async def follow(self, member: Member) -> None:
        """Keep one engine at the newest weights, for ever."""
        while self._serves(member):
            async with self._changed:
                await self._changed.wait_for(lambda: self._is_behind(member))
            if not member.ready:
                # A replaced engine gets the weights from `prepare`; look again when it is back.
                await asyncio.sleep(0.2)
                continue
            handle = member.handle
            try:
                await self._load(member, fresh=False)
            except LOSSES:
                member.lose(handle)
                await asyncio.sleep(0.2)

    async def reached(self, member: Member, version: int) -> None:
        """Wait until an engine serves `version` or a newer one."""
        if self._serves(member):
            async with self._changed:
                await self._changed.wait_for(lambda: member.version >= version)

    def _take(self, publication: Publication) -> None:
        known = self._newest.get(publication.policy)
        if known is None or publication.version >= known.version:
            self._newest = self._newest | {publication.policy: publication}
        if publication.policy == self._evaluated:
            others = [p for p in self._history if p.version != publication.version]
            self._history = sorted([*others, publication], key=lambda p: p.version)[-self._depth - 1 :]

    def _needs(self, member: Member, published: set[str]) -> bool:
        """Whether new weights of these policies are anything to a member."""
        follows_evaluated = self._evaluated in published
        return any(p in published or (follows_evaluated and steps_back(p)) for p in self._serves(member))

    def _is_behind(self, member: Member) -> bool:
        held = self._held_at is not None and member.version >= self._held_at
        return member.version < self._version and not held

    def _wanted(self, member: Member) -> tuple[int, list[Publication]]:
        """The version to reach, and what a member lacks of it."""
        weights = self._held or self._newest
        version = self._held_at if self._held and self._held_at is not None else self._version
        wanted = []
        for policy in self._serves(member):
            back = steps_back(policy)
            if back is None:
                found = weights.get(policy)
            else:
                past = [p for p in self._history if p.version <= version]
                found = replace(past[max(-len(past), -back - 1)], policy=policy) if past else None
            if found is not None and member.loaded.get(policy, -1) < found.version:
                wanted.append(found)
        return version, wanted

    async def _load(self, member: Member, fresh: bool) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._version >= 0)
        version, publications = self._wanted(member)
        asked, sent_at = time.monotonic(), self._sent_at
        if publications:
            what = f"{member.name} to load version {version} (deadlines.publish)"
            try:
                report = await within(self._deadlines.publish, member.handle.load.remote(*publications), what)
            except ObjectLostError:
                # Its learner died before this engine had it; the one that takes over publishes again.
                async with self._changed:
                    await self._changed.wait_for(lambda: self._sent_at != sent_at)
                await self._load(member, fresh)
                return
            member.loaded |= {p.policy: p.version for p in publications}
        member.version = version
        self._served = max(self._served, version)
        if publications:
            self._account(replace(report, version=version), asked if fresh else sent_at)
        async with self._changed:
            self._changed.notify_all()
        self._on_reached()

    def _account(self, report: LoadReport, since: float) -> None:
        if report.version not in self._expected:
            return  # counted before: this is an engine that was replaced since
        reports = self._reports.setdefault(report.version, {})
        reports[report.engine] = report
        # One that has never held any weights still starts: like one that is replaced, it is proved and not waited for.
        started = {member.name for member in self._members if member.version >= 0}
        if self._expected[report.version] & started <= reports.keys():
            loaded = list(reports.values())
            self._reports = {v: found for v, found in self._reports.items() if v > report.version}
            self._expected = {v: names for v, names in self._expected.items() if v > report.version}
            seconds = time.monotonic() - since
            exposed = self._blocked_seconds + max(entry.paused_seconds for entry in loaded)
            self._on_loaded(loaded, seconds, exposed)
