"""A pool of actors of one kind that are kept alive.

A member that dies, hangs past a deadline or fails to start is replaced; work that was with it raises `MemberLost`
and belongs to the caller again. A member is handed out only after its `prepare` went through, so a replaced engine
serves no request before it holds the current weights.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import ray
from ray.exceptions import ObjectLostError, RayActorError

from actors.clock import BusyClock
from actors.deadlines import DeadlineExceeded, within

HEARTBEAT_SECONDS = 2.0


class MemberLost(RuntimeError):
    """The member died or hung while it had work."""


class Broken(RuntimeError):
    """Raised by a member that can't go on and wants to be replaced."""


LOSSES = (RayActorError, ObjectLostError, DeadlineExceeded, Broken)
"""What tells that a member is gone, rather than that its work was wrong."""


class PoolBroken(RuntimeError):
    """A member could not be kept alive."""


class Member:
    """One place in the pool; the actor in it may be replaced."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.handle: Any = None
        self.ready = False
        self.load = 0
        self.version = -1
        self.loaded: dict[str, int] = {}
        """Version of each policy that it serves."""
        self.clock = BusyClock()
        self.lost = asyncio.Event()

    def lose(self, handle: Any) -> None:
        """Ask for a replacement of the actor `handle`, unless another one has already taken its place."""
        if handle is self.handle:
            # At once: what was with it would otherwise be given to it again, and use up its attempts.
            self.ready = False
            self.lost.set()


class Pool:
    """Members that are kept alive.

    `create(name)` makes an actor whose method `start` returns its process id; `prepare(member)` makes it fit to serve.
    A member has at most `slots` users at once; with none, any number.
    """

    def __init__(
        self,
        names: list[str],
        create: Callable[[str], Any],
        prepare: Callable[[Member], Awaitable[None]] | None = None,
        *,
        start_deadline: float,
        slots: int | None = None,
        max_restarts: int = 5,
        on_event: Callable[[str, str, str], None] = lambda event, member, detail: None,
    ) -> None:
        self.members = [Member(name) for name in names]
        self.restarts = 0
        self._create = create
        self._prepare = prepare
        self._start_deadline = start_deadline
        self._slots = slots
        self._max_restarts = max_restarts
        self._on_event = on_event
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> list["asyncio.Task[None]"]:
        """Begin to keep every member alive; the tasks end only with an error, or when cancelled."""
        self._tasks = [asyncio.create_task(self._keep(member)) for member in self.members]
        return self._tasks

    @asynccontextmanager
    async def use(self, deadline: float) -> AsyncIterator[Member]:
        """The least loaded ready member, counted as busy meanwhile.

        Raises: `DeadlineExceeded` when none is ready in time, `MemberLost` when it dies with the work.
        """
        while not self._free():
            if self.ready():
                # No deadline: those who hold it have one.
                await self._change()
            else:
                await within(deadline, self._one_is_ready(), f"a ready one of {[m.name for m in self.members]}")
        # Chosen and counted without a wait in between, or users that come together would all choose the same one.
        member = min(self._free(), key=lambda member: member.load)
        member.load += 1
        handle = member.handle
        try:
            with member.clock.busy():
                yield member
        except LOSSES as error:
            member.lose(handle)
            raise MemberLost(f"{member.name}: {_reason(error)}") from error
        finally:
            member.load -= 1
            self._signal()

    def ready(self) -> list[Member]:
        """Members that can be given work."""
        return [member for member in self.members if member.ready]

    def busy_seconds(self) -> float:
        """Busy time of all members together."""
        return sum(member.clock.seconds() for member in self.members)

    def kill(self) -> None:
        """Stop keeping members alive and end them."""
        for task in self._tasks:
            task.cancel()
        for member in self.members:
            member.ready = False
            if member.handle is not None:
                ray.kill(member.handle)

    def _free(self) -> list[Member]:
        return [member for member in self.ready() if self._slots is None or member.load < self._slots]

    async def _one_is_ready(self) -> None:
        while not self.ready():
            await self._change()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _keep(self, member: Member) -> None:
        while True:
            member.lost.clear()
            member.version = -1
            reason = await self._serve(member)
            member.ready = False
            ray.kill(member.handle)
            self.restarts += 1
            self._on_event("restarted", member.name, reason)
            if self.restarts > self._max_restarts:
                raise PoolBroken(f"{member.name} was lost again after {self._max_restarts} restarts: {reason}")

    async def _serve(self, member: Member) -> str:
        """Bring a member up and watch it; returns why it was lost."""
        try:
            member.handle = self._create(member.name)
            pid = await within(
                self._start_deadline, member.handle.start.remote(), f"{member.name} to start (deadlines.start)"
            )
            if self._prepare:
                await self._prepare(member)
            member.ready = True
            self._signal()
            self._on_event("ready", member.name, f"process {pid}")
            await self._watch(member)
        except LOSSES as error:
            return _reason(error)
        return "lost while it had work"

    async def _watch(self, member: Member) -> None:
        """Until its work says that it is lost; raises what a heartbeat finds."""
        lost = asyncio.create_task(member.lost.wait())
        try:
            while not (await asyncio.wait([lost], timeout=HEARTBEAT_SECONDS))[0]:
                beat = asyncio.create_task(self._heartbeat(member))
                # A member that hangs in its work answers no heartbeat either.
                await asyncio.wait([lost, beat], return_when=asyncio.FIRST_COMPLETED)
                if lost.done():
                    beat.cancel()
                else:
                    await beat
        finally:
            lost.cancel()

    async def _heartbeat(self, member: Member) -> None:
        await within(self._start_deadline, member.handle.start.remote(), f"{member.name}'s heartbeat")

    def _signal(self) -> None:
        self._changed.set()


def _reason(error: BaseException) -> str:
    """One line, without the trace that Ray wraps around an actor's error."""
    cause = getattr(error, "cause", None)
    return str(cause if isinstance(cause, BaseException) else error).partition("\n")[0]
