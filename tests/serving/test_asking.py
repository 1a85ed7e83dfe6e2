"""Many requests at once: results stay in order, and somebody who waits is told how many have come."""

import asyncio
import io

import pytest
from rich.console import Console

import serving.asking
from serving.asking import gathered


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
        return await gathered("prompts", [asyncio.sleep(0, "a")] * 1, Console(file=written, force_terminal=True))

    assert asyncio.run(ask()) == ["a"]
    assert "1/1" in written.getvalue()
