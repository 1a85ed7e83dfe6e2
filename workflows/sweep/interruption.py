"""Ctrl-C in a sweep: its runs end by themselves first, because Ray Tune kills what is left after ten seconds.

Ray may lose sight of the placement group of a trainer that is killed while it starts, and hold its resources for ever.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from workflows.run_directory import in_use

FLAG = "interrupted"
"""In the sweep directory, where trials on other machines see it too."""
POLL_SECONDS = 0.2


def interrupted(sweep: Path) -> bool:
    """Whether the sweep in this directory is being ended, so that its trials have to end."""
    return (sweep / FLAG).exists()


@contextlib.contextmanager
def interruptible(sweep: Path, trials: Path, seconds: float) -> Iterator[None]:
    """At the first Ctrl-C wait up to `seconds` for the runs in the folder `trials` to end; at the second, stop.

    Does nothing outside the main thread, where Python takes no signals.
    """
    (sweep / FLAG).unlink(missing_ok=True)
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # Ray Tune takes SIGUSR1 for the same purpose, and leaves SIGINT to us.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"

    def end(*_: Any) -> None:
        signal.signal(signal.SIGINT, previous)
        (sweep / FLAG).touch()
        running = [run for run in trials.glob("*") if in_use(run)]
        Console(stderr=True).print(
            f"interrupted: waiting up to {seconds:g} s for {len(running)} trials to end; Ctrl-C again does not wait",
            highlight=False,
        )
        deadline = time.monotonic() + seconds
        while any(in_use(run) for run in running) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        signal.raise_signal(signal.SIGUSR1)
        # Ray Tune has put this handler back.
        signal.signal(signal.SIGINT, previous)

    previous = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
