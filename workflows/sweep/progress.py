"""What a person watches while a sweep goes on, and what stays when it ends: a live table, and `trials.parquet`.

Contract: the table on disk holds every ended trial at every moment, and after Ctrl-C also those that were under way.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray.tune import Callback
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from workflows.sweep.config import SweepConfig, config_of_point
from workflows.sweep.ranking import ranked
from workflows.sweep.table import Row, Trial, flattened, row, write_table
from workflows.sweep.trial import REASON_FILE, STOP_SECONDS, finished

TABLE = "trials.parquet"
INTERRUPTED = "stopped by an interruption; the same command goes on"
POLL_SECONDS = 0.2
SHOWN = 8
"""Ended trials in the live table, the best first."""


class SweepProgress(Callback):
    """Ray Tune tells it of every step of the sweep."""

    def __init__(self, config: SweepConfig, planned: int, together: int) -> None:
        self._config = config
        self._planned, self._together = planned, together
        self._rows: dict[str, Row] = {}
        self._began: dict[str, float] = {}
        self._durations: list[float] = []
        self._console: Console | None = None
        self._live: Live | None = None

    def setup(self, *_: Any, **__: Any) -> None:
        """Open the display; not before, because Ray Tune keeps a copy of this object on disk."""
        self._console = Console()
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=2)
            self._live.start()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Remember when it began."""
        self._began[trial.trial_id] = time.monotonic()

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        """Take up what has ended, and show."""
        ended = [trial for trial in trials if trial.is_finished()]
        for trial in ended:
            if trial.status == "TERMINATED" and trial.trial_id not in self._rows:
                self._await_end(trial)
        self._take(ended, "stopped by the scheduler")
        if self._live:
            self._live.update(Group(self._display(trials), Text(self._summary())))

    def on_experiment_end(self, trials: list[Any], **_: Any) -> None:
        """Take up what was under way, which Ray Tune has just stopped, and close the display."""
        self._take([trial for trial in trials if trial.trial_id in self._began], INTERRUPTED)
        if self._live:
            self._live.stop()

    def _await_end(self, trial: Any) -> None:
        """Until a trial's run has ended by itself: Ray Tune kills what is still there when the sweep ends."""
        run = config_of_point(self._config, trial.config["point"])
        summary = Path(run.directory) / run.name / "summary.json"
        deadline = time.monotonic() + STOP_SECONDS
        while not summary.exists() and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)

    def _take(self, trials: Sequence[Any], stopped: str) -> None:
        """`stopped`: why a trial without an end has none."""
        new = [trial for trial in trials if trial.trial_id not in self._rows]
        for trial in new:
            found = self._rows[trial.trial_id] = row(outcome(self._config, trial, stopped))
            if trial.trial_id in self._began:
                self._durations.append(time.monotonic() - self._began[trial.trial_id])
            if self._console and not self._live:
                because = f" ({found['reason'].splitlines()[0]})" if found["reason"] else ""
                line = f"{found['trial']} {found['status']}{because}: {self._scores(found)} with {self._values(found)}"
                self._console.print(f"{line} | {self._summary()}", highlight=False, markup=False, soft_wrap=True)
        if new:
            rows = sorted(self._rows.values(), key=lambda entry: str(entry["trial"]))
            write_table(Path(self._config.directory) / self._config.name / TABLE, rows)

    def _summary(self) -> str:
        ended = len(self._rows)
        failed = sum(entry["status"] == "failed" for entry in self._rows.values())
        parts = [f"{ended} of {self._planned} trials" + (f", {failed} failed" if failed else "")]
        if order := ranked(list(self._rows.values()), self._config.metrics):
            parts.append(f"best {self._scores(order[0])} with {self._values(order[0])}")
        if (left := seconds_left(self._durations, self._planned - ended, self._together)) is not None:
            parts.append(f"about {left / 60:.1f} min left")
        return " | ".join(parts)

    def _display(self, trials: Sequence[Any]) -> Table:
        display = Table("trial", "status", *self._config.space, *(entry.metric for entry in self._config.metrics))
        for found in ranked(list(self._rows.values()), self._config.metrics)[:SHOWN]:
            scores = [_text(found[entry.metric]) for entry in self._config.metrics]
            display.add_row(str(found["trial"]), found["status"], *self._cells(found), *scores)
        for trial in trials:
            if trial.status == "RUNNING":
                last = trial.last_result or {}
                scores = [_text(last.get(entry.metric)) for entry in self._config.metrics]
                name = config_of_point(self._config, trial.config["point"]).name
                values = flattened(trial.config["point"]["values"])
                display.add_row(name, f"running, {last.get('share', 0):.0f}%", *self._cells(values), *scores)
        return display

    def _cells(self, found: Row) -> list[str]:
        # A varied tree, such as an objective, is shown by its name.
        return [_text(found.get(key, found.get(f"{key}.name"))) for key in self._config.space]

    def _values(self, found: Row) -> str:
        cells = zip(self._config.space, self._cells(found), strict=True)
        return ", ".join(f"{key} {cell}" for key, cell in cells)

    def _scores(self, found: Row) -> str:
        return ", ".join(f"{entry.metric} {_text(found[entry.metric])}" for entry in self._config.metrics)


def outcome(config: SweepConfig, trial: Any, stopped: str) -> Trial:
    """How a trial of Ray Tune ended; `stopped`: the reason if it was stopped."""
    run, lineage = config_of_point(config, trial.config["point"]), tuple(trial.config["point"].get("lineage", ()))
    directory = Path(run.directory) / run.name
    if finished(directory):
        return Trial(config=run, status="complete", lineage=lineage)
    if trial.status == "ERROR":
        path = directory / REASON_FILE
        reason = path.read_text(encoding="utf-8") if path.exists() else str(trial.get_error() or "its process was lost")
        return Trial(config=run, status="failed", reason=reason, lineage=lineage)
    return Trial(config=run, status="stopped_early", reason=stopped, lineage=lineage)


def seconds_left(durations: Sequence[float], remaining: int, together: int) -> float | None:
    """Time for the trials that remain at the mean duration so far, in rounds of `together`; none before the first."""
    if not durations or remaining <= 0:
        return None
    return sum(durations) / len(durations) * -(-remaining // together)


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
