"""What the programs that put many requests to a service share: the client, its answers, and a progress bar."""

import asyncio
import os
import time
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")

QUIET_SECONDS = 15.0
"""Between two lines where nobody watches a terminal."""
READY_SECONDS = 1.0
"""Between two looks at a service that starts."""


class ServiceError(RuntimeError):
    """The service can't do what it is asked for; the message says what it answered."""


def client_of(url: str, deadline: float) -> httpx.AsyncClient:
    """A client with the key in NASHLOOP_KEY, if there is one; each request may take `deadline` seconds."""
    key = os.environ.get("NASHLOOP_KEY")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return httpx.AsyncClient(base_url=url, headers=headers, timeout=deadline)


def checked(answer: httpx.Response) -> dict[str, Any]:
    """What a request was answered. Raises: `ServiceError` with what the service says against it."""
    if not answer.is_success:
        raise ServiceError(f"{answer.request.url} answers {answer.status_code}: {answer.text[:500]}")
    found: dict[str, Any] = answer.json()
    return found


async def wait_until_ready(client: httpx.AsyncClient, seconds: float) -> None:
    """Return once the service is ready, so that who asks may be started right behind it.

    Raises: `ServiceError` when it is not within that time, or refuses the key.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            answer = await client.get("/ready", timeout=30.0)
            if answer.is_success and answer.json().get("ready"):
                return
            if answer.status_code == httpx.codes.UNAUTHORIZED:
                checked(answer)
            found = f"it answers {answer.status_code}: {answer.text[:200]}"
        except (httpx.TransportError, ValueError) as error:
            found = f"{type(error).__name__}: {error}"
        if time.monotonic() > deadline:
            raise ServiceError(f"the service at {client.base_url} is not ready after {seconds:g} s (--wait): {found}")
        await asyncio.sleep(READY_SECONDS)


async def gathered(what: str, asked: Sequence[Awaitable[T]], console: Console | None = None) -> list[T]:
    """All results, in the order asked, with how many have come shown on the way."""
    console = console or Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    told = time.monotonic()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=len(asked))

        async def counted(one: Awaitable[T]) -> T:
            nonlocal told
            result = await one
            progress.advance(task)
            if not console.is_terminal and time.monotonic() - told > QUIET_SECONDS:
                told = time.monotonic()
                console.print(f"{what}: {progress.tasks[task].completed:.0f} of {len(asked)}", highlight=False)
            return result

        return list(await asyncio.gather(*(counted(one) for one in asked)))
