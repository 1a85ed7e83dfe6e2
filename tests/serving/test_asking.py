"""Many requests at once: results stay in order, and somebody who waits is told how many have come."""

import asyncio
import io

import httpx
import pytest
from rich.console import Console

import serving.asking
from serving.asking import ServiceError, gathered, wait_until_ready


def test_results_keep_their_order_and_each_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving.asking, "QUIET_SECONDS", -1.0)
    written = io.StringIO()

    async def ask() -> list[int]:
        first_is_last = [asyncio.Event() for _ in range(4)]

        async def one(number: int) -> int:
            if number < 3:
                await first_is_last[number + 1].wait()
            first_is_last[number].set()
            return number

        return await gathered("prompts", [one(number) for number in range(4)], Console(file=written))

    assert asyncio.run(ask()) == [0, 1, 2, 3]
    assert written.getvalue().splitlines() == [f"prompts: {done} of 4" for done in (1, 2, 3, 4)]


def test_on_a_terminal_a_bar_counts() -> None:
    written = io.StringIO()

    async def ask() -> list[str]:
        return await gathered("prompts", [asyncio.sleep(0, "a")], Console(file=written, force_terminal=True))

    assert asyncio.run(ask()) == ["a"]
    assert "1/1" in written.getvalue()


def ask_of(*answers: httpx.Response | Exception, seconds: float = 60.0) -> int:
    """How often a service was asked whether it is ready, that gives these answers and then the last one again."""
    asked = 0

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal asked
        assert request.url.path == "/ready"
        found = answers[min(asked, len(answers) - 1)]
        asked += 1
        if isinstance(found, Exception):
            raise found
        return found

    async def ask() -> None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://there") as client:
            await wait_until_ready(client, seconds)

    asyncio.run(ask())
    return asked


def test_a_service_that_starts_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """First nobody listens, then Serve answers without the application, then the policy loads."""
    monkeypatch.setattr(serving.asking, "READY_SECONDS", 0.0)
    starting: list[httpx.Response | Exception] = [
        httpx.ConnectError("refused"),
        httpx.Response(200, text="no JSON"),
        httpx.Response(404, text="no route"),
        httpx.Response(503, json={"ready": False}),
    ]
    assert ask_of(*starting, httpx.Response(200, json={"ready": True})) == 5


def test_who_is_not_ready_in_time_or_refuses_the_key_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving.asking, "READY_SECONDS", 0.0)
    with pytest.raises(ServiceError, match=r"http://there is not ready after 0 s \(--wait\): ConnectError: refused"):
        ask_of(httpx.ConnectError("refused"), seconds=0.0)
    with pytest.raises(ServiceError, match="401"):
        ask_of(httpx.Response(401, text="wrong key"))
