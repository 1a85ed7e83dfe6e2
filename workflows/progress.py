"""What a person watches while a run goes on: a live table on a terminal, a line now and then elsewhere."""

import time
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

QUIET_SECONDS = 15.0


def seconds_left(version: int, steps: int, seconds: float, begun: float) -> float | None:
    """Time left at the pace since the first batch, none before the first update."""
    if version <= 0:
        return None
    return (seconds - begun) / version * (steps - version)


def describe(status: dict[str, Any], steps: int) -> str:
    """One line for people."""
    version = status["version"]
    if version < 0:
        return f"starting: {status['engines_ready']} engines ready, waiting for the learner"
    ledger, latest = status["ledger"], status["latest"]
    left = seconds_left(version, steps, status["seconds"], status["begun_seconds"])
    parts = [
        f"version {version}/{steps}",
        f"groups {ledger['trained']} trained, {ledger['in_flight']} in flight, {ledger['rejected']} rejected",
        f"staleness {status['staleness_mean']:.2f}",
        f"{status['throughput']['completions_per_second']:.1f} completions/s",
        f"overlap {status['overlap_efficiency']:.0%}",
    ]
    if latest:
        parts.append(f"margin {latest['margin']:.2f}, KL {latest['kl']:.1f}")
    if status["evaluation"]:
        rate = status["evaluation"]["win_rate"]
        at = status["evaluation"]["version"]
        parts.append(f"win rate {rate['mean']:.2f} [{rate['low']:.2f}, {rate['high']:.2f}] at version {at}")
    if left is not None and version < steps:
        parts.append(f"{left / 60:.1f} min left")
    if version == steps and not status["finished"]:
        parts.append("evaluating the final policy")
    return " | ".join(parts)


class RunProgress:
    """Shows statuses of a run as they come."""

    def __init__(self, steps: int, console: Console) -> None:
        self._steps = steps
        self._console = console
        self._bar = Progress(
            TextColumn("aligning"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed:.0f}/{task.total:.0f} versions"),
        )
        self._task = self._bar.add_task("aligning", total=steps)
        self._live = Live(self._bar, console=console, refresh_per_second=2) if console.is_terminal else None
        self._last_line = 0.0
        self._last_shown: tuple[Any, ...] = ()

    def __enter__(self) -> "RunProgress":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, status: dict[str, Any]) -> None:
        """Bring the display up to date."""
        self._bar.update(self._task, completed=max(status["version"], 0))
        if self._live:
            self._live.update(Group(self._bar, _table(describe(status, self._steps))))
            return
        shown = (status["evaluation"] and status["evaluation"]["version"], status["version"] < 0)
        if shown != self._last_shown or time.monotonic() - self._last_line > QUIET_SECONDS:
            self._last_line, self._last_shown = time.monotonic(), shown
            self._console.print(
                f"[{status['seconds']:6.0f} s] {describe(status, self._steps)}", highlight=False, markup=False
            )


def _table(line: str) -> Table:
    table = Table.grid(padding=(0, 1))
    for part in line.split(" | "):
        table.add_row(part)
    return table
