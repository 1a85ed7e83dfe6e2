"""Promise 7: the whole job may be killed and started again; one run directory belongs to one driver and one config."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.loop.support import Outcome, Runs, half_way, same_weights, until
from workflows.align import align
from workflows.run_directory import RunDirectory, RunDirectoryError
from workflows.training import RunFailed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[3]
SLOW: dict[str, Any] = {"scoring": {"panel": ["tests.judges:slow_ascii_share"]}}


def command(config: Path, address: str) -> list[str]:
    """What a person types."""
    return [sys.executable, "-m", "workflows.align", "--config", str(config), "--address", address]


def content(folder: Path) -> dict[str, bytes]:
    """All files that a refused driver might have changed."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def second_driver(runs: Runs) -> dict[str, Any]:
    """Filled with what the fixture `killed` saw on the way."""
    return {}


@pytest.fixture(scope="module")
def killed(runs: Runs, cluster: str, second_driver: dict[str, Any]) -> Outcome:
    """A synchronous run whose driver is killed with SIGKILL half-way, and the same command again."""
    file, config = runs.config_file("killed", **SLOW), runs.config("killed", **SLOW)
    path = runs.folder / "killed"
    with (runs.folder / "killed.log").open("w") as log:
        first = subprocess.Popen(command(file, cluster), cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        try:
            until(lambda: (path / "config.yaml").exists() or first.poll() is not None, 120, "the first driver")
            with pytest.raises(RunDirectoryError) as refused:
                align(config)
            second_driver["message"] = str(refused.value)
            until(lambda: half_way(path) or first.poll() is not None, 300, "version 3 and a checkpoint")
            assert first.poll() is None, (runs.folder / "killed.log").read_text()
        finally:
            first.send_signal(signal.SIGKILL)
            first.wait()
        second_driver["checkpoints"] = sorted(entry.name for entry in (path / "checkpoints").glob("version-*"))
        again = subprocess.run(command(file, cluster), cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, timeout=500)
    error = RuntimeError((runs.folder / "killed.log").read_text()) if again.returncode else None
    return Outcome(config=config, error=error, seconds=0.0)


def test_a_killed_run_ends_with_the_weights_of_one_never_killed(killed: Outcome, synchronous: Outcome) -> None:
    assert killed.succeeded().events("resumed"), "the second driver began anew"
    assert same_weights(killed.weights(), synchronous.succeeded().weights())


def test_a_resumed_run_counts_everything_once(killed: Outcome, second_driver: dict[str, Any]) -> None:
    loop, summary = killed.succeeded().config.loop, killed.summary
    assert second_driver["checkpoints"], "it was killed before its first checkpoint"
    total = loop.steps * loop.batch
    assert summary["ledger"] == {"admitted": total, "trained": total, "rejected": 0, "in_flight": 0}
    trained = killed.trained()
    assert len(trained) == len({group.id for _, group in trained}) == total
    assert sorted(version for version, _ in trained) == [v for v in range(loop.steps) for _ in range(loop.batch)]
    assert [line["version"] for line in killed.metrics("step")] == list(range(1, loop.steps + 1))
    assert summary["staleness"]["histogram"] == {"0": total}
    (resumed,) = killed.events("resumed")
    assert 0 < resumed["version"] < loop.steps
    assert resumed["admitted"] == resumed["trained"] + resumed["rejected"] + resumed["in_flight"]


def test_a_resumed_run_measures_what_one_never_killed_does(killed: Outcome, synchronous: Outcome) -> None:
    for name in ("loss", "margin", "kl", "gradient_norm", "learning_rate", "pairs"):
        there = [line[name] for line in synchronous.succeeded().metrics("step")]
        assert [line[name] for line in killed.succeeded().metrics("step")] == there, name
    assert killed.summary["win_rate"] == synchronous.summary["win_rate"]


def test_a_second_driver_is_refused(killed: Outcome, second_driver: dict[str, Any]) -> None:
    assert f"another driver works in {killed.path.resolve()}" in second_driver["message"]


def test_a_finished_run_is_not_run_again(killed: Outcome, runs: Runs) -> None:
    before = content(killed.succeeded().path)
    with pytest.raises(RunFailed, match="is finished; choose another name"):
        align(killed.config)
    assert content(killed.path) == before


def test_another_configuration_is_refused(killed: Outcome, runs: Runs) -> None:
    before = content(killed.succeeded().path)
    other = runs.config("killed", **SLOW, learner={"learning_rate": 0.5}, loop={"eta": 3})
    with pytest.raises(RunDirectoryError) as refused:
        align(other)
    assert "loop.eta: there 0, asked for 3" in str(refused.value)
    assert "learner.learning_rate: there 0.001, asked for 0.5" in str(refused.value)
    assert content(killed.path) == before
    assert yaml.safe_load((killed.path / "config.yaml").read_text())["loop"]["eta"] == 0
    RunDirectory(killed.config).open().close()
