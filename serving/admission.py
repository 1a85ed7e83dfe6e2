"""Who is let in: a limit on all requests, and for each key a limit on its rate and on its running requests.

Nobody waits here: what is above a limit is turned away, with the seconds after which it is worth trying again.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from serving.errors import overloaded, rate_limited
from serving.settings import Limits

RETRY_SECONDS = 1.0
"""When a slot may be free again; how long answers take isn't known here."""


@dataclass(slots=True)
class _Bucket:
    """Tokens of a key: one a request, refilled at its rate up to its burst."""

    tokens: float
    filled_at: float


class Admission:
    """Counts what runs. `clock` is in seconds and never goes back."""

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}
        self._running: Counter[str] = Counter()

    @property
    def running(self) -> int:
        """Requests that were let in and have not ended."""
        return self._running.total()

    @contextlib.contextmanager
    def request(self, key: str) -> Iterator[None]:
        """A request of a key, while it runs.

        Raises: `ServingError` 429 above a limit of the key, 503 above the limit of all.
        """
        limits = self._limits
        if self._running[key] >= limits.key_running:
            raise rate_limited(
                f"this key may have {limits.key_running} requests running at once, and has", RETRY_SECONDS
            )
        if self.running >= limits.running:
            raise overloaded(RETRY_SECONDS)
        self._take(key)
        self._running[key] += 1
        try:
            yield
        finally:
            self._running[key] -= 1

    def _take(self, key: str) -> None:
        limits, now = self._limits, self._clock()
        bucket = self._buckets.setdefault(key, _Bucket(limits.key_burst, now))
        bucket.tokens = min(limits.key_burst, bucket.tokens + (now - bucket.filled_at) * limits.key_rate)
        bucket.filled_at = now
        if bucket.tokens < 1.0:
            wait = (1.0 - bucket.tokens) / limits.key_rate
            raise rate_limited(
                f"this key may make {limits.key_rate:g} requests a second; try again in {wait:.1f} s", wait
            )
        bucket.tokens -= 1.0
