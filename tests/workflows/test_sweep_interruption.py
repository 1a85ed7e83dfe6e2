"""Ctrl-C in a sweep: its trials are told, and Ray Tune hears of it only when they have ended."""

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.examples import TREE
from tests.loop.support import until
from workflows.run_directory import RunDirectory, in_use
from workflows.sweep.config import parse_sweep
from workflows.sweep.interruption import FLAG, interrupted, interruptible
from workflows.sweep.trial import AlignTrial

HELD = 0.6
"""Seconds that a run still takes to end."""


@pytest.fixture
def heard() -> Iterator[list[float]]:
    """When Ray Tune, which takes SIGUSR1, would have begun to end the sweep."""
    times: list[float] = []
    previous = signal.signal(signal.SIGUSR1, lambda *_: times.append(time.monotonic()))
    # A shell lets what it starts in the background ignore Ctrl-C.
    at_start = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield times
    signal.signal(signal.SIGINT, at_start)
    signal.signal(signal.SIGUSR1, previous)


def sweep_of(folder: Path) -> Any:
    base = {key: value for key, value in TREE.items() if key != "name"} | {"data": {"prompts": "p.jsonl"}}
    space = {"learner.learning_rate": {"values": [1e-3]}}
    metrics = [{"metric": "kl", "mode": "min"}]
    return parse_sweep({"name": "sweep", "directory": str(folder), "base": base, "space": space, "metrics": metrics})


def trial_of(sweep: Any) -> AlignTrial:
    trial: AlignTrial = object.__new__(AlignTrial)
    point = {"index": 0, "seed": 0, "values": {"learner.learning_rate": 1e-3}}
    trial.setup({"sweep": sweep.model_dump(mode="json"), "point": point})
    return trial


def test_ray_tune_hears_of_it_when_the_runs_have_ended(tmp_path: Path, heard: list[float]) -> None:
    trial = trial_of(sweep_of(tmp_path))
    run = RunDirectory(trial._run_config).open()
    assert in_use(run.path)
    closing: list[float] = []

    def close() -> None:
        closing.append(time.monotonic())
        run.close()

    before = signal.getsignal(signal.SIGINT)
    with interruptible(tmp_path / "sweep", tmp_path / "sweep" / "trials", 30):
        assert trial._watch({"evaluation": None}) is None
        threading.Timer(HELD, close).start()
        signal.raise_signal(signal.SIGINT)
        assert closing
        assert heard[0] >= closing[0]
        assert trial._watch({"evaluation": None}) == "the sweep stopped this trial"
        # The next Ctrl-C is the one that doesn't wait.
        assert signal.getsignal(signal.SIGINT) == before
    assert not in_use(run.path)


def test_a_run_that_does_not_end_is_waited_for_so_long_and_no_longer(tmp_path: Path, heard: list[float]) -> None:
    run = RunDirectory(trial_of(sweep_of(tmp_path))._run_config).open()
    with interruptible(tmp_path / "sweep", tmp_path / "sweep" / "trials", HELD):
        signal.raise_signal(signal.SIGINT)
        assert in_use(run.path)
        assert len(heard) == 1
    run.close()


def test_the_second_one_does_not_wait(tmp_path: Path, heard: list[float]) -> None:
    run = RunDirectory(trial_of(sweep_of(tmp_path))._run_config).open()

    def again() -> None:
        until((tmp_path / "sweep" / FLAG).exists, 60, "the first to be heard")
        signal.raise_signal(signal.SIGINT)

    threading.Thread(target=again, daemon=True).start()
    with (
        pytest.raises(KeyboardInterrupt),
        interruptible(tmp_path / "sweep", tmp_path / "sweep" / "trials", 300),
    ):
        signal.raise_signal(signal.SIGINT)
    assert not heard
    run.close()


def test_the_same_command_goes_on_afterwards(tmp_path: Path) -> None:
    (tmp_path / FLAG).touch()
    assert interrupted(tmp_path)
    with interruptible(tmp_path, tmp_path / "trials", 1):
        assert not interrupted(tmp_path)


def test_a_run_that_ended_because_of_it_has_not_failed(tmp_path: Path) -> None:
    """Ray Tune would not go on with a trial that failed: it is left as it is until Ray Tune kills it."""
    trial = trial_of(sweep_of(tmp_path))
    (tmp_path / "sweep").mkdir()
    trial._run = threading.Thread()
    trial._reached.put(RuntimeError("the sweep stopped this trial"))
    (tmp_path / "sweep" / FLAG).touch()
    step = threading.Thread(target=trial.step, daemon=True)
    step.start()
    step.join(HELD)
    assert step.is_alive()
    assert not list((tmp_path / "sweep").rglob("failure.txt"))
