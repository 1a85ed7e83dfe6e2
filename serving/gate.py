"""Every answer comes from one version: answers share the gate, a change of the weights has it for itself."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Gate:
    """Used from one event loop. A change that waits keeps new answers out, so that it gets its turn."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self._empty = asyncio.Event()
        self._empty.set()
        self.inside = 0
        """Answers that are being written."""

    @contextlib.asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """One answer; waits while a change goes on."""
        # Between `wait` and the next step of this task another change may have closed the gate.
        while not self._open.is_set():
            await self._open.wait()
        self.inside += 1
        self._empty.clear()
        try:
            yield
        finally:
            self.inside -= 1
            if not self.inside:
                self._empty.set()

    @contextlib.asynccontextmanager
    async def alone(self, deadline: float) -> AsyncIterator[None]:
        """A change, once all answers inside are complete.

        Raises: TimeoutError when that takes longer than `deadline` seconds; nothing was changed then.
        """
        while not self._open.is_set():
            await self._open.wait()
        self._open.clear()
        try:
            async with asyncio.timeout(deadline):
                await self._empty.wait()
            yield
        finally:
            self._open.set()
