"""What a run writes down while it goes on: events, metrics and TensorBoard files, appended line by line."""

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LONGEST_LINE = 2**20
"""Bytes."""


class Journal:
    """Writers of one run directory; what was written before a step is on disk once the step is."""

    def __init__(self, folder: str) -> None:
        from tensorboardX import SummaryWriter

        self._metrics_path = Path(folder) / "metrics.jsonl"
        self._canaries_path = Path(folder) / "canaries.jsonl"
        events = Path(folder) / "events.jsonl"
        _drop_cut_line(events)
        self._events = events.open("a", encoding="utf-8", buffering=1)
        self._metrics = self._metrics_path.open("a", encoding="utf-8")
        self._board = SummaryWriter(logdir=str(Path(folder) / "tensorboard"))

    def event(self, name: str, **fields: Any) -> None:
        """One line in the life of a group or of the run."""
        self._events.write(json.dumps({"time": round(time.time(), 3), "event": name, **fields}) + "\n")

    def metrics(self, kind: str, version: int, values: dict[str, Any]) -> None:
        """One line of figures, also as TensorBoard scalars; numbers that are not finite are left out."""
        kept = {key: value for key, value in values.items() if not _not_finite(value)}
        self._metrics.write(json.dumps({"kind": kind, "version": version, **kept}) + "\n")
        for key, value in kept.items():
            if isinstance(value, int | float):
                self._board.add_scalar(f"{kind}/{key}", value, version)
        self.flush()

    def canaries(self, version: int, policy: str, logprobs: Sequence[Mapping[int, float]]) -> None:
        """One line of `canaries.jsonl`: next-token log-probabilities, in nats, one mapping a canary."""
        line = json.dumps({"version": version, "policy": policy, "logprobs": logprobs})
        with self._canaries_path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def rewind(self, version: int) -> None:
        """Forget the metrics after `version`, which a resumed run will measure again."""
        self._metrics.close()
        _keep_until(self._metrics_path, version)
        # The version itself is published once more by the learner that resumes.
        _keep_until(self._canaries_path, version - 1)
        self._metrics = self._metrics_path.open("a", encoding="utf-8")

    def flush(self) -> None:
        """Put everything written so far on disk."""
        self._events.flush()
        self._metrics.flush()
        self._board.flush()

    def close(self) -> None:
        """Flush and close."""
        self._events.close()
        self._metrics.close()
        self._board.close()


def _drop_cut_line(path: Path) -> None:
    """Forget a last line that is not whole: the run was killed, or its disk was full."""
    if path.exists():
        with path.open("rb+") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - LONGEST_LINE))
            tail = file.read()
            file.truncate(size - len(tail) + tail.rfind(b"\n") + 1)


def _keep_until(path: Path, version: int) -> None:
    if path.exists():
        kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _version(line) <= version]
        part = path.with_suffix(".part")
        part.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        part.rename(path)


def _version(line: str) -> float:
    try:
        return float(json.loads(line)["version"])
    except ValueError:  # a line that was cut when the run was killed
        return math.inf


def _not_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
