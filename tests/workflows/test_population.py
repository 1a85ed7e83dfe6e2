"""Population based training: what a copy is given, where it begins, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from actors.checkpoints import CHECKPOINTS, COMMITTED, INHERITED, SNAPSHOT_FILE, STATE_FILE, checkpoint_name
from tests.examples import TREE, config
from workflows.config import ConfigError
from workflows.scaling_law.table import TableError, read_tables
from workflows.sweep.config import SweepConfig, config_of_point, parse_sweep
from workflows.sweep.fork import ForkError, fork, keep
from workflows.sweep.population import FACTOR, Population, descendant, explored
from workflows.sweep.search import scheduler
from workflows.sweep.table import Trial, row, write_table

RATE = "learner.learning_rate"
RATES = {RATE: {"low": 1e-5, "high": 1e-3, "log": True}}
BASE: dict[str, Any] = {key: value for key, value in TREE.items() if key != "name"} | {
    "data": {"prompts": "prompts.jsonl", "heldout": "heldout.jsonl"},
    "evaluation": {"every": 2},
    "loop": TREE.get("loop", {}) | {"steps": 8},
    "learner": TREE.get("learner", {}) | {"checkpoint_every": 2},
}


def parse(base: dict[str, Any] | None = None, **changes: Any) -> SweepConfig:
    tree = {"name": "sweep", "base": BASE | (base or {}), "space": RATES, "search": {"method": "sobol", "trials": 4}}
    return parse_sweep(tree | {"scheduler": {"name": "pbt"}} | changes)


def test_a_setting_goes_up_or_down_by_one_factor_and_stays_in_its_range() -> None:
    sweep = parse(scheduler={"name": "pbt", "resample": 0.0})
    generator = np.random.default_rng(0)
    found = {explored({RATE: 1e-4}, sweep.space, sweep.scheduler, generator)[RATE] for _ in range(50)}
    assert found == {1e-4 * FACTOR, 1e-4 / FACTOR}
    at_the_end = {explored({RATE: 1e-3}, sweep.space, sweep.scheduler, generator)[RATE] for _ in range(50)}
    assert at_the_end == {1e-3, 1e-3 / FACTOR}


def test_drawn_anew_a_setting_may_be_anything_in_its_range() -> None:
    sweep = parse(scheduler={"name": "pbt", "resample": 1.0})
    generator = np.random.default_rng(0)
    found = [explored({RATE: 1e-4}, sweep.space, sweep.scheduler, generator)[RATE] for _ in range(400)]
    assert min(found) >= 1e-5
    assert max(found) <= 1e-3
    # Log-uniform: half of them below the geometric mean of the ends.
    assert np.mean(np.array(found) < 1e-4) == pytest.approx(0.5, abs=0.08)


def test_a_copy_keeps_its_number_and_takes_seed_and_settings_from_its_donor() -> None:
    sweep = parse(seeds=[0, 1])
    member = {"sweep": {}, "point": {"index": 2, "seed": 0, "values": {RATE: 1e-5}}}
    donor = {"sweep": {}, "point": {"index": 1, "seed": 1, "values": {RATE: 1e-4}}}
    found = descendant(sweep, member, donor, 4)["point"]
    assert (found["index"], found["seed"], found["lineage"]) == (2, 1, ["trial-0001 at version 4"])
    assert found["values"] != donor["point"]["values"]
    assert found == descendant(sweep, member, donor, 4)["point"]
    assert config_of_point(sweep, found).name == "trial-0002.1"
    again = descendant(sweep, {"point": found}, donor, 6)["point"]
    assert again["lineage"] == ["trial-0001 at version 4", "trial-0001 at version 6"]
    assert config_of_point(sweep, again).name == "trial-0002.2"


@pytest.mark.parametrize(("together", "synchronous"), [(1, True), (3, True), (4, False)])
def test_members_wait_for_each_other_where_they_can_t_all_run(together: int, synchronous: bool) -> None:
    found = scheduler(parse(), together)
    assert isinstance(found, Population)
    assert found._synch is synchronous
    assert found._perturbation_interval == 25.0


@pytest.mark.parametrize(
    ("base", "changes", "message"),
    [
        ({}, {"search": {"method": "tpe", "trials": 4}}, "choose sobol, random or grid"),
        ({}, {"search": {"method": "sobol", "trials": 1}}, "at least 2 trials"),
        ({}, {"space": {"loop.eta": {"low": 0, "high": 4}}}, "can't alter loop.eta"),
        ({}, {"space": {RATE: {"values": [1e-4, 1e-3]}}, "search": {"method": "grid"}}, "a range of real numbers"),
        ({"evaluation": {"every": 3}}, {}, "a multiple of learner.checkpoint_every = 2"),
        ({"evaluation": {"every": 8}}, {}, "scores before the end"),
        ({"learner": BASE["learner"] | {"checkpoints_kept": 1}}, {}, "at least 2"),
        ({"objective": {"name": "dno_prct"}}, {}, "which objective.name = 'dno_prct' trains again"),
        ({}, {"metrics": [{"metric": "win_rate"}, {"metric": "kl", "mode": "min"}]}, "compares one metric"),
    ],
)
def test_what_can_t_go_on_as_a_copy_is_refused(base: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match="pbt") as error:
        parse(base, **changes)
    assert message in str(error.value)


# Copies of runs


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with one whole checkpoint and one that is being written."""
    folder = tmp_path / "trial-0000"
    for version in (2, 4):
        checkpoint = folder / CHECKPOINTS / checkpoint_name(version)
        checkpoint.mkdir(parents=True)
        (checkpoint / STATE_FILE).write_text(f"weights {version}")
        (checkpoint / SNAPSHOT_FILE).write_text(f"loop {version}")
    listed = {"checkpoint_results": [{"checkpoint_dir_name": checkpoint_name(2)}]}
    (folder / CHECKPOINTS / COMMITTED).write_text(json.dumps(listed))
    (folder / "metrics.jsonl").write_text('{"kind": "step", "version": 2}\n')
    (folder / "start.parquet").write_text("start")
    return folder


def test_a_copy_begins_with_the_checkpoint_and_outlives_its_donor(run: Path, tmp_path: Path) -> None:
    keep(run, 2, tmp_path / "kept", 0.0)
    for path in run.rglob("*.*"):
        if path.is_file():
            path.write_text("gone on")
    copied = tmp_path / "trials" / "trial-0001.1"
    fork(tmp_path / "kept", copied)
    assert (copied / INHERITED / STATE_FILE).read_text() == "weights 2"
    assert (copied / INHERITED / SNAPSHOT_FILE).read_text() == "loop 2"
    assert (copied / "metrics.jsonl").read_text() == '{"kind": "step", "version": 2}\n'
    assert (copied / "start.parquet").read_text() == "start"
    assert not (copied / "config.yaml").exists()


def test_a_copy_that_has_begun_is_left_as_it_is(run: Path, tmp_path: Path) -> None:
    keep(run, 2, tmp_path / "kept", 0.0)
    fork(tmp_path / "kept", tmp_path / "copy")
    (tmp_path / "copy" / "metrics.jsonl").write_text("further")
    fork(tmp_path / "kept", tmp_path / "copy")
    assert (tmp_path / "copy" / "metrics.jsonl").read_text() == "further"


def test_a_checkpoint_that_is_not_whole_is_no_beginning(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ForkError, match=r"no checkpoint of version 4 after 0.2 s.*checkpoints_kept"):
        keep(run, 4, tmp_path / "kept", 0.2)


def test_a_changed_trial_is_told_in_the_table_and_enters_no_law(tmp_path: Path, tiny_model: Path) -> None:
    made = [config(name=f"trial-000{i}", directory=str(tmp_path), model__name=str(tiny_model)) for i in range(2)]
    whole, changed = (
        Trial(config=made[0], status="complete"),
        Trial(config=made[1], status="complete", lineage=("a",)),
    )
    path = tmp_path / "trials.parquet"
    write_table(path, [row(whole), row(changed)])
    assert [(entry["censored"], entry["lineage"]) for entry in pq.read_table(path).to_pylist()] == [
        (False, ""),
        (True, "a"),
    ]
    found = read_tables([path])
    assert found.columns["trial"] == ["trial-0000"]
    assert found.notes == ("1 of 2 trials left out: 1 changed while they ran.",)
    write_table(path, [row(changed)])
    with pytest.raises(TableError, match="1 changed while they ran"):
        read_tables([path])
