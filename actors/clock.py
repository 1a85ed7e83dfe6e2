"""How long a plane was busy: the time during which at least one piece of work was with it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class BusyClock:
    """Busy seconds of one worker since it was made; time is injected so that arithmetic can be tested."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._working = 0
        self._since = 0.0
        self._total = 0.0

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Count the time inside; overlapping work counts once."""
        if not self._working:
            self._since = self._now()
        self._working += 1
        try:
            yield
        finally:
            self._working -= 1
            if not self._working:
                self._total += self._now() - self._since

    def seconds(self) -> float:
        """Busy time so far, work in progress included."""
        return self._total + (self._now() - self._since if self._working else 0.0)
