"""A sweep of real runs: interrupted, it leaves a table; started again, it goes on; nothing of a trial stays behind."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray
import yaml
from ray import tune

from tests.examples import TREE
from tests.loop.support import Outcome, Runs, until
from workflows.sweep.__main__ import main
from workflows.sweep.config import METRICS, load_sweep, parse_sweep, trial_config
from workflows.sweep.search import scheduler
from workflows.sweep.trial import SHARE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
CPUS = 0.25
"""Of a learner here and nowhere else, so that its placement groups are told from those of other runs."""


def placement_groups() -> list[dict[str, Any]]:
    """The sweep's placement groups: those of its learners and of its trials."""
    own = ({"CPU": CPUS}, {"memory": 1.0})
    table = ray.util.placement_group_table().values()
    return [group for group in table if any(bundle in own for bundle in group["bundles"].values())]


def left() -> list[dict[str, Any]]:
    """Those that still hold something."""
    return [group for group in placement_groups() if group["state"] != "REMOVED"]


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    table = folder / "trials.parquet"
    return {row["trial"]: row for row in pq.read_table(table).to_pylist()} if table.exists() else {}


@pytest.fixture(scope="module")
def sweep(runs: Runs) -> Path:
    """The configuration of a sweep of three trials.

    The first finds its run directory taken. The last hardly moves the policy, which is what the scheduler looks at.
    """
    # Slow judges: the scheduler needs time to stop a run between its first evaluation and its end.
    base = runs.tree(
        "base",
        loop={"steps": 8},
        scoring={"panel": ["tests.judges:slow_ascii_share"]},
        learner={"cpus": CPUS},
        evaluation={"every": 4, "prompts": 4},
    )
    tree = {
        "name": "sweep",
        "directory": str(runs.folder),
        "base": {key: value for key, value in base.items() if key not in ("name", "directory")},
        "space": {"learner.learning_rate": {"values": [1e-4, 1e-2, 1e-9]}},
        "scheduler": {"name": "asha", "grace": 0.5, "reduction": 2},
        "metrics": [{"metric": "kl", "mode": "max"}],
        "max_concurrent_trials": 1,
    }
    taken = runs.folder / "sweep" / "trials" / "trial-0000"
    taken.mkdir(parents=True)
    (taken / "config.yaml").write_text(yaml.safe_dump({"seed": 7}), encoding="utf-8")
    path = runs.folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def interrupted(cluster: str, sweep: Path, runs: Runs) -> dict[str, dict[str, Any]]:
    """Rows of the sweep after Ctrl-C in its second trial."""
    command = [sys.executable, "-m", "workflows.sweep", "--config", str(sweep), "--address", cluster]
    with (runs.folder / "sweep.log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
    second = runs.folder / "sweep" / "trials" / "trial-0001" / "config.yaml"
    until(lambda: second.exists() or process.poll() is not None, 300, "the second trial")
    os.kill(process.pid, signal.SIGINT)
    log_text = (runs.folder / "sweep.log").read_text
    assert process.wait(timeout=400) == 1, log_text()
    assert "waiting up to 90 s for 1 trials to end" in log_text()
    until(lambda: not left(), 200, "the interrupted sweep's placement groups to be removed")
    return rows(runs.folder / "sweep")


def test_an_interrupted_sweep_leaves_a_table_with_what_ended_and_what_did_not(
    interrupted: dict[str, dict[str, Any]],
) -> None:
    assert {name: row["status"] for name, row in interrupted.items()} == {
        "trial-0000": "failed",
        "trial-0001": "stopped_early",
    }
    assert "holds a run with another configuration" in interrupted["trial-0000"]["reason"]
    assert interrupted["trial-0001"]["censored"]
    assert not interrupted["trial-0000"]["censored"]


def test_the_same_command_goes_on_and_leaves_nothing_behind(
    interrupted: dict[str, dict[str, Any]], sweep: Path, runs: Runs
) -> None:
    assert main(["--config", str(sweep)]) == 0
    found = rows(runs.folder / "sweep")
    assert found["trial-0000"] == interrupted["trial-0000"]
    row = found["trial-0001"]
    config = load_sweep(sweep)
    outcome = Outcome(config=trial_config(config, 1, 0, {"learner.learning_rate": 1e-2}), error=None, seconds=0.0)
    assert row["status"] == "complete"
    assert (row["learner.learning_rate"], row["seed"]) == (1e-2, 0)
    assert row["run_directory"] == str(outcome.path)
    assert row["win_rate"] == outcome.summary["win_rate"]["mean"]
    assert row["history.version"] == [4.0, 8.0]
    assert row["history.tokens"][-1] == row["tokens"]
    assert row["history.win_rate"][-1] == row["win_rate"]
    steps = outcome.metrics("step")
    assert row["tokens"] == sum(step["batch_trained_tokens"] for step in steps)
    assert all(row[name] is not None for name in METRICS)
    command = json.loads((outcome.path / "environment.json").read_text())["command"]
    assert command == f"python -m workflows.align --config {outcome.path}/config.yaml"
    stopped = found["trial-0002"]
    assert (stopped["status"], stopped["reason"]) == ("stopped_early", "stopped by the scheduler")
    assert stopped["censored"]
    assert stopped["history.kl"][0] < row["history.kl"][0]
    assert not (Path(stopped["run_directory"]) / "policy").exists()
    assert placement_groups()
    try:
        until(lambda: not left(), 200, "the sweep's placement groups to be removed")
    except AssertionError as error:
        raise AssertionError(f"{error}: {left()}") from None


class Member(tune.Trainable):
    """Of a population: the first fails, or the last ends, before the place where the others wait for it.

    With `order`, a folder, none does: the best waits half-way until the worst is a copy, and the worst until the others
    are half-way.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self.index, self.share = config["point"]["index"], 0.0

    def step(self) -> dict[str, Any]:
        missing, order = self.config["missing"], self.config["order"]
        if self.index == missing == 0:
            raise RuntimeError("a setting that can't be run")
        if order and self.index == 0 and not self.share:
            until(lambda: len(list(Path(order).glob("half-*"))) == 2, 300, "the others")
        if order and self.index > 0 and self.share:
            # A member's next step begins when Ray Tune has its report.
            (Path(order) / f"half-{self.index}").touch()
            until((Path(order) / "copy-0").exists, 300, "the worst to be a copy")
        self.share = 100.0 if self.index == missing else self.share + 50.0
        return {SHARE: self.share, "version": self.share, "win_rate": float(self.index), "done": self.share >= 100.0}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        (Path(checkpoint_dir) / "share.txt").write_text(str(self.share), encoding="utf-8")

    def load_checkpoint(self, checkpoint: Any) -> None:
        self.share = float((Path(checkpoint) / "share.txt").read_text(encoding="utf-8"))
        if self.config["order"]:
            (Path(self.config["order"]) / f"copy-{self.index}").touch()


def population(folder: Path, missing: int | None, together: int, order: Path | None = None) -> list[Any]:
    """Results of three members, of which `together` run at once."""
    space = {"learner.learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}}
    base = {key: value for key, value in TREE.items() if key != "name"} | {
        "data": {"prompts": "prompts.jsonl", "heldout": "heldout.jsonl"},
        "evaluation": {"every": 2},
        "learner": {"checkpoint_every": 2},
    }
    tree = {"name": "members", "base": base, "space": space, "search": {"method": "sobol", "trials": 3}}
    sweep = parse_sweep(tree | {"scheduler": {"name": "pbt", "interval": 0.5}})
    listed = [{"index": i, "seed": 0, "values": {"learner.learning_rate": 1e-4}} for i in range(3)]
    # As many as memory holds run.
    memory = int(0.9 * ray.cluster_resources()["memory"] / together)
    tuner = tune.Tuner(
        tune.with_resources(Member, {"memory": memory}),
        param_space={
            "sweep": sweep.model_dump(mode="json"),
            "missing": missing,
            "order": order and str(order),
            "point": tune.grid_search(listed),
        },
        tune_config=tune.TuneConfig(scheduler=scheduler(sweep, together)),
        run_config=tune.RunConfig(name="members", storage_path=str(folder), verbose=0),
    )
    ended = tuner.fit()
    return [ended[i] for i in range(3)]


@pytest.mark.parametrize("missing", [0, 2])
@pytest.mark.usefixtures("cluster")
def test_members_don_t_wait_for_one_that_has_ended(missing: int, tmp_path: Path) -> None:
    found = population(tmp_path, missing, together=1)
    failed = missing == 0
    assert [result.error is not None for result in found] == [failed, False, False]
    assert [result.metrics[SHARE] for result in found[failed:] if result.metrics] == [100.0] * (3 - failed)
    # The others were compared without it.
    worse, better = sorted({0, 1, 2} - {missing})
    lineages = [result.config["point"].get("lineage", []) for result in found if result.config]
    assert lineages[worse] == [f"trial-000{better} at version 50"]
    assert sum(map(len, lineages)) == 1


@pytest.mark.usefixtures("cluster")
def test_members_that_all_run_at_once_are_compared_while_they_run(tmp_path: Path) -> None:
    """The best is in its second half when it is copied, and was never stopped for it."""
    (order := tmp_path / "order").mkdir()
    found = population(tmp_path, None, together=3, order=order)
    assert [result.error for result in found] == [None] * 3
    lineages = [result.config["point"].get("lineage", []) for result in found if result.config]
    assert lineages[0] == ["trial-0002 at version 50"]
    # The middle one is the worst of two if it reports second.
    assert lineages[1] in ([], lineages[0])
    assert lineages[2] == []


def test_the_worst_of_a_population_goes_on_as_an_altered_copy_of_the_best(cluster: str, runs: Runs) -> None:
    base = runs.tree(
        "base",
        loop={"steps": 4},
        learner={"cpus": CPUS, "checkpoint_every": 2},
        evaluation={"every": 2, "prompts": 4},
    )
    tree = {
        "name": "population",
        "directory": str(runs.folder),
        "base": {key: value for key, value in base.items() if key not in ("name", "directory")},
        "space": {"learner.learning_rate": {"low": 1e-9, "high": 1e-2, "log": True, "points": 2}},
        "search": {"method": "grid", "seed": 2},
        "scheduler": {"name": "pbt", "interval": 0.5, "resample": 0},
        # The one of the two that hardly moves is the worse.
        "metrics": [{"metric": "kl", "mode": "max"}],
        "max_concurrent_trials": 1,
    }
    path = runs.folder / "population.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    assert main(["--config", str(path), "--address", cluster]) == 0
    found = rows(runs.folder / "population")
    assert {name: row["lineage"] for name, row in found.items()} == {
        "trial-0000.1": "trial-0001 at version 2",
        "trial-0001": "",
    }
    copied, donor = found["trial-0000.1"], found["trial-0001"]
    assert {row["status"] for row in found.values()} == {"complete"}
    assert (copied["censored"], donor["censored"]) == (True, False)
    assert copied["learner.learning_rate"] == pytest.approx(1e-2 / 1.25)
    # The same past, to the last bit, and a future of its own.
    assert copied["history.version"] == donor["history.version"] == [2.0, 4.0]
    for name in ("history.kl", "history.loss", "history.tokens"):
        assert copied[name][0] == donor[name][0]
    assert copied["history.kl"][1] != donor["history.kl"][1]
    ledger = json.loads((Path(copied["run_directory"]) / "summary.json").read_text())["ledger"]
    assert ledger["trained"] == base["loop"]["steps"] * base["loop"]["batch"]
    until(lambda: not left(), 200, "Ray to remove the sweep's placement groups")
