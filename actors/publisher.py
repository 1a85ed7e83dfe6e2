"""Brings every engine to the newest published version, and knows which version they all serve.

The learner never waits here. An engine that is still loading skips to the newest version afterwards; one that was
replaced loads it before it serves. A publication that cannot be proved ends the run.
"""

import asyncio
import time
from collections.abc import Callable

from ray.exceptions import ObjectLostError

from actors.config import AlignConfig
from actors.deadlines import within
from actors.pool import LOSSES, Member
from actors.publication import LoadReport, Publication


class Publisher:
    """Publications on their way to the members of one pool."""

    def __init__(self, config: AlignConfig, on_loaded: Callable[[list[LoadReport], float, float], None]) -> None:
        self._deadlines = config.deadlines
        self._on_loaded = on_loaded
        self._engines = config.rollout.engines
        self._newest: Publication | None = None
        self._sent_at = 0.0
        self._blocked_seconds = 0.0
        self._reports: dict[int, dict[str, LoadReport]] = {}
        self._changed = asyncio.Condition()
        self._served = -1
        self._held_at: int | None = None
        self._held: Publication | None = None

    async def publish(self, publication: Publication, blocked_seconds: float) -> None:
        """Offer a version; `blocked_seconds` is what it cost the learner."""
        async with self._changed:
            if self._held_at is not None and publication.version <= self._held_at:
                self._held = publication
            self._newest = publication
            self._sent_at = time.monotonic()
            self._blocked_seconds = blocked_seconds
            self._changed.notify_all()

    async def hold(self, version: int | None) -> None:
        """Let no engine go beyond `version` for now; none lets them go on."""
        async with self._changed:
            self._held_at, self._held = version, None
            self._changed.notify_all()

    async def prepare(self, member: Member) -> None:
        """Load the newest version into a fresh engine, waiting for the first one if need be.

        Groups may have been admitted for any version that some engine served; none is sampled from older weights.
        """
        await self._load(member, fresh=True)
        while member.version < self._served:
            await self._load(member, fresh=True)

    async def follow(self, member: Member) -> None:
        """Keep one engine at the newest version, for ever."""
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._is_behind(member))
            if not member.ready:
                # A replaced engine gets the version from `prepare`; look again when it is back.
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
        async with self._changed:
            await self._changed.wait_for(lambda: member.version >= version)

    def _is_behind(self, member: Member) -> bool:
        return self._newest is not None and member.version < self._newest.version and not self._holds(member)

    def _holds(self, member: Member) -> bool:
        return self._held_at is not None and member.version >= self._held_at

    async def _load(self, member: Member, fresh: bool) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._newest is not None)
        publication = self._held or self._newest
        assert publication is not None
        asked = time.monotonic()
        what = f"{member.name} to load version {publication.version} (deadlines.publish)"
        try:
            report = await within(self._deadlines.publish, member.handle.load.remote(publication), what)
        except ObjectLostError:
            # Its learner died before this engine had it; the one that takes over publishes again.
            async with self._changed:
                await self._changed.wait_for(lambda: (self._held or self._newest) is not publication)
            await self._load(member, fresh)
            return
        member.version = publication.version
        self._served = max(self._served, publication.version)
        self._account(report, asked if fresh else self._sent_at)
        async with self._changed:
            self._changed.notify_all()

    def _account(self, report: LoadReport, since: float) -> None:
        reports = self._reports.setdefault(report.version, {})
        reports[report.engine] = report
        if len(reports) == self._engines:
            loaded = list(self._reports.pop(report.version).values())
            for old in [version for version in self._reports if version < report.version]:
                del self._reports[old]
            seconds = time.monotonic() - since
            exposed = self._blocked_seconds + max(entry.paused_seconds for entry in loaded)
            self._on_loaded(loaded, seconds, exposed)
