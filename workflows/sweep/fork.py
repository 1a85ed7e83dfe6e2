"""A run that begins where another one was, under a configuration of its own.

Contract: what `keep` leaves holds no reference to the run that it is from, so that the run may go on or go away.
"""

import shutil
import time
from pathlib import Path

from actors.checkpoints import INHERITED, committed_checkpoint

PART = "part"
CARRIED = ("metrics.jsonl", "start.parquet")
"""What a run measured, which a resumed one cuts off at its checkpoint, and the start's answers to held-out prompts."""
POLL_SECONDS = 0.1


class ForkError(RuntimeError):
    """A checkpoint that is not there to begin from."""


def keep(run: Path, version: int, folder: Path, seconds: float) -> None:
    """Copy into `folder` what a fork of the run directory `run` at `version` needs.

    Waits up to `seconds` for the checkpoint to be written: its version is reported before.
    Raises: `ForkError`.
    """
    deadline = time.monotonic() + seconds
    while (checkpoint := committed_checkpoint(run, version)) is None:
        if time.monotonic() >= deadline:
            raise ForkError(
                f"{run} has no checkpoint of version {version} after {seconds:g} s, so no other run can begin there; "
                "raise learner.checkpoints_kept if it was removed to make room"
            )
        time.sleep(POLL_SECONDS)
    shutil.copytree(checkpoint, folder / INHERITED)
    for name in CARRIED:
        shutil.copy2(run / name, folder / name)


def fork(kept: Path, run: Path) -> None:
    """Make the run directory `run` begin with what `keep` left in the folder `kept`; one that exists stays as it is."""
    if run.exists():
        return
    part = run.with_name(f"{run.name}.{PART}")
    shutil.rmtree(part, ignore_errors=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(kept / INHERITED, part / INHERITED)
    for name in CARRIED:
        shutil.copy2(kept / name, part / name)
    part.rename(run)
