"""Ray Train as every workflow starts it: a trainer that keeps its checkpoints in a run directory, and its thread."""

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import ray.train
from ray.exceptions import RayTaskError
from ray.train.constants import RAY_CHDIR_TO_TRIAL_DIR
from ray.train.torch import TorchTrainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from actors.full_disk import FULL, is_full_disk
from workflows.progress import QUIET_SECONDS
from workflows.run_directory import Named, RunDirectory

POLL_SECONDS = 0.5


class RunFailed(RuntimeError):
    """The run stopped before its end; what it has done so far can be resumed."""


@contextlib.contextmanager
def unfinished(config: Named) -> Iterator[RunDirectory]:
    """The run directory of a run that is to be started or gone on with; no other driver may use it meanwhile.

    Raises: `RunFailed` when the run in it is finished, or a disk is full, whoever found that; `RunDirectoryError` when
    it can't be used.
    """
    directory = RunDirectory(config).open()
    try:
        if directory.finished:
            raise RunFailed(f"the run in {directory.path} is finished; choose another name (--set name=...)")
        yield directory
    except (OSError, RayTaskError, RunFailed) as error:
        if not is_full_disk(error):
            raise
        raise RunFailed(
            f"a disk is full ({FULL}): make room where {directory.path} and the temporary files lie, and start the run "
            "again; it goes on from its last checkpoint"
        ) from error
    finally:
        directory.close()


class Workers(Protocol):
    """How many workers train, each on what, and how often they may be started again."""

    @property
    def workers(self) -> int: ...
    @property
    def cpus(self) -> float: ...
    @property
    def gpus(self) -> float: ...
    @property
    def max_restarts(self) -> int: ...


def torch_trainer(
    loop: Callable[[dict[str, Any]], None],
    loop_config: Mapping[str, Any],
    workers: Workers,
    directory: Path,
    checkpoints_kept: int,
) -> TorchTrainer:
    """A trainer of `loop`, which is also told the `run_directory`."""
    # Paths in a configuration are relative to where its run was started, for these workers too.
    os.environ[RAY_CHDIR_TO_TRIAL_DIR] = "0"
    # It would tell workers that their node is about to go; ours resume from a checkpoint and do not ask.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    # A worker may be one report ahead of the controller, which looks every two seconds by default: the updates between
    # two checkpoints of a small model take less.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    return TorchTrainer(
        loop,
        train_loop_config={**loop_config, "run_directory": str(directory)},
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers.workers,
            use_gpu=bool(workers.gpus),
            resources_per_worker={"CPU": workers.cpus} | ({"GPU": workers.gpus} if workers.gpus else {}),
        ),
        run_config=ray.train.RunConfig(
            name="checkpoints",
            storage_path=str(directory),
            failure_config=ray.train.FailureConfig(max_failures=workers.max_restarts),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=checkpoints_kept),
        ),
    )


class Training(threading.Thread):
    """Ray Train's blocking `fit`, beside the driver's own waiting."""

    def __init__(self, trainer: TorchTrainer) -> None:
        super().__init__(daemon=True, name="train")
        self._trainer = trainer
        self.error: str | None = None

    def run(self) -> None:
        try:
            self._trainer.fit()
        except Exception as error:  # every failure of the trainer ends the run with its message
            self.error = f"{type(error).__name__}: {error}".strip()

    def watch(self, metrics: Path, updates: int, deadline: float, setting: str, console: Console) -> None:
        """Start, show the updates as they are written to `metrics`, one line of JSON each, and wait for the end.

        Raises: `RunFailed` when training fails, or the next update takes longer than the `deadline`, in seconds, that
        `setting` allows.
        """
        self.start()
        columns = (TextColumn("training"), BarColumn(bar_width=None), MofNCompleteColumn(), TimeRemainingColumn())
        done, seen, told = -1, time.monotonic(), 0.0
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            task = progress.add_task("training", total=updates)
            while self.is_alive():
                lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []
                if len(lines) != done:
                    done, seen = len(lines), time.monotonic()
                    progress.update(task, completed=done)
                    if not console.is_terminal and seen - told > QUIET_SECONDS:
                        told = seen
                        console.print(_described(lines, updates), highlight=False)
                if time.monotonic() - seen > deadline:
                    raise RunFailed(f"waited {deadline:g} s for the update after number {done} ({setting})")
                time.sleep(POLL_SECONDS)
        self.finish(deadline, setting)

    def finish(self, timeout: float, setting: str) -> None:
        """Wait for the workers to save what they trained and end.

        Raises: `RunFailed` when they fail, or do not end within the time that `setting` allows.
        """
        self.join(timeout)
        if self.is_alive():
            raise RunFailed(f"training did not save its model and end within {timeout:g} s ({setting})")
        if self.error:
            raise RunFailed(f"training failed: {self.error}")


def _described(lines: Sequence[str], updates: int) -> str:
    """One line for people."""
    text = f"update {len(lines)}/{updates}"
    if not lines or not lines[-1].endswith("}"):
        return text
    latest = json.loads(lines[-1])
    accuracy = latest.get("accuracy")
    return f"{text} | loss {latest['loss']:.3f}" + ("" if accuracy is None else f" | accuracy {accuracy:.2f}")
