"""One trial: a run of `align`, started inside a Ray Tune trial, whose evaluations are its reports.

Contract: what a trial has started is gone when the trial has ended, however it ended.
"""

import json
import queue
import sys
import threading
from collections import deque
from pathlib import Path
from typing import Any

from ray import tune

from workflows.sweep.config import SweepConfig, config_of_point
from workflows.sweep.fork import fork, keep
from workflows.sweep.interruption import interrupted

SHARE = "share"
"""Reported percentage of the run's updates; the clock by which trials are compared."""

STOP_SECONDS = 90.0
"""How long a stopped trial may take to end its planes."""
REASON_FILE = "failure.txt"
"""In the run directory of a trial that failed."""
VERSION_FILE = "version.txt"
"""In a checkpoint of Ray Tune's: where a copy begins."""

Report = dict[str, float]


class AlignTrial(tune.Trainable):
    """A run of `align` in a thread: one step of Ray Tune is the time from one evaluation to the next.

    Its configuration: `sweep`, the sweep's resolved tree, and `point`: `index`, `seed` and `values` by dotted key.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Get ready; the run begins with the first step, when it is known whether it begins as a copy."""
        sweep = SweepConfig.model_validate(config["sweep"])
        self._run_config = config_of_point(sweep, config["point"])
        self._copied = sweep.scheduler.name == "pbt"
        self._directory = Path(self._run_config.directory) / self._run_config.name
        self._sweep_directory = Path(sweep.directory) / sweep.name
        # The process belongs to this run alone, and environment.json says how to start the run again.
        sys.argv[:] = ["python", "-m", "workflows.align", "--config", str(self._directory / "config.yaml")]
        self._reached: queue.SimpleQueue[int | Exception] = queue.SimpleQueue()
        """Evaluated versions, or what ended the run."""
        self._due: deque[Report] = deque()
        """Evaluations read and not yet reported: a fast run may make several before one is noticed."""
        self._shown = self._reported = 0
        self._stopping = threading.Event()
        self._run: threading.Thread | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Be another trial: its process has imported all that a run needs."""
        self.cleanup()
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Report the next evaluation; the last one only once the run directory is whole."""
        if self._run is None:
            self._run = threading.Thread(target=self._align, daemon=True, name="align")
            self._run.start()
        steps = self._run_config.loop.steps
        while not self._due:
            version = self._reached.get()
            if isinstance(version, Exception):
                if interrupted(self._sweep_directory):
                    # A failure would be the end of this trial; one that is killed here goes on with the sweep.
                    threading.Event().wait()
                _keep(f"{type(version).__name__}: {version}", self._directory)
                raise version
            self._due.extend(row for row in history(self._directory) if self._reported < row["version"] <= version)
            if version == steps and not self._due:
                raise RuntimeError(
                    f"the run in {self._directory} has ended, and its metrics.jsonl has no version {steps}"
                )
        report = self._due.popleft()
        self._reported = int(report["version"])
        return {**report, SHARE: 100.0 * self._reported / steps, "done": self._reported == steps}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """What a copy of this run needs to begin at the reported version; for itself the run directory is enough."""
        if self._copied:
            folder = Path(checkpoint_dir)
            keep(self._directory, self._reported, folder, self._run_config.deadlines.publish)
            (folder / VERSION_FILE).write_text(str(self._reported), encoding="utf-8")

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Begin as a copy of the run in the folder `checkpoint`, unless this run exists: then it goes on by itself."""
        if self._copied:
            fork(Path(checkpoint), self._directory)
            self._shown = self._reported = int((Path(checkpoint) / VERSION_FILE).read_text(encoding="utf-8"))

    def cleanup(self) -> None:
        """End the run and wait until nothing of it is left."""
        self._stopping.set()
        if self._run is not None:
            self._run.join(STOP_SECONDS)

    def _align(self) -> None:
        from rich.console import Console

        from workflows.align import align

        try:
            if not finished(self._directory):
                align(self._run_config, console=Console(quiet=True), watch=self._watch)
            self._reached.put(self._run_config.loop.steps)
        except Exception as error:  # Ray Tune gets it from the next step
            self._reached.put(error)

    def _watch(self, status: dict[str, Any]) -> str | None:
        evaluation = status["evaluation"]
        if evaluation and self._shown < evaluation["version"] < self._run_config.loop.steps:
            self._shown = evaluation["version"]
            self._reached.put(self._shown)
        ending = self._stopping.is_set() or interrupted(self._sweep_directory)
        return "the sweep stopped this trial" if ending else None


def finished(directory: Path) -> bool:
    """Whether a run came to its end here."""
    path = directory / "summary.json"
    return path.exists() and json.loads(path.read_text(encoding="utf-8"))["status"] == "finished"


def _keep(reason: str, directory: Path) -> None:
    """Why a trial failed, where whoever reads the table finds it."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / REASON_FILE).write_text(reason, encoding="utf-8")


def history(directory: Path) -> list[Report]:
    """What a run directory says of every evaluated version and of the last, oldest first.

    Each: `version`, `tokens` (trained), `generated_tokens`, `groups`, and the names of `METRICS` as far as they are
    known.
    """
    path = directory / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    rows: dict[int, Report] = {}
    state: Report = {"tokens": 0.0, "generated_tokens": 0.0}
    for row in (json.loads(line) for line in lines if line.endswith("\n")):
        if row["kind"] == "step":
            tokens = state["tokens"] + row["batch_trained_tokens"]
            generated = state["generated_tokens"] + row["batch_generated_tokens"]
            numbers = {key: float(value) for key, value in row.items() if isinstance(value, int | float)}
            state = {**numbers, "version": row["version"], "tokens": tokens, "generated_tokens": generated}
            rows[row["version"]] = dict(state)
        elif row["kind"] == "evaluation":
            rows.setdefault(row["version"], {"version": row["version"], "tokens": 0.0, "generated_tokens": 0.0})
            rows[row["version"]] |= _evaluation(row)
    last = max(rows, default=None)
    return [rows[version] for version in sorted(rows) if "win_rate" in rows[version] or version == last]


def _evaluation(row: dict[str, Any]) -> Report:
    rate = row["win_rate"]
    return {
        "win_rate": rate["mean"],
        "win_rate_low": rate["low"],
        "win_rate_high": rate["high"],
        "ties": row["ties"],
        "evaluated_length": row["length_mean"],
        "seconds": row["seconds"],
    }
