"""Every wait has a deadline and says what it waited for."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


class DeadlineExceeded(RuntimeError):
    """Something did not happen in time; the message says what, and which key sets the deadline."""


async def within(seconds: float, awaitable: Awaitable[T], what: str) -> T:
    """Await, for at most `seconds`.

    Raises: `DeadlineExceeded` with `what`, for example `engine-0 to load version 3 (deadlines.publish)`.
    """
    try:
        return await asyncio.wait_for(awaitable, seconds)
    except TimeoutError:
        raise DeadlineExceeded(f"waited {seconds:g} s for {what}") from None
