"""A sweep is checked before a trial starts, its table holds what happened, and halving compares like with like."""

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from safetensors.torch import load_file

from tests.examples import TREE, config, tree
from workflows.config import ConfigError
from workflows.sweep.__main__ import main
from workflows.sweep.config import SweepConfig, load_sweep, parse_sweep, points, probed_configs, trial_config, trials
from workflows.sweep.progress import SweepProgress, seconds_left
from workflows.sweep.ranking import is_dominated, ranked
from workflows.sweep.search import parameter_space, scheduler, searcher
from workflows.sweep.table import Trial, flattened, model_size, row, write_table
from workflows.sweep.trial import SHARE, AlignTrial, history

ROOT = Path(__file__).resolve().parents[2]
RATES = {"learner.learning_rate": {"low": 1e-5, "high": 1e-3, "log": True, "points": 3}}
BASE = {key: value for key, value in TREE.items() if key != "name"} | {
    "data": {"prompts": "prompts.jsonl", "heldout": "heldout.jsonl"},
    "evaluation": {"every": 1},
}


def sweep_tree(**changes: Any) -> dict[str, Any]:
    return {"name": "sweep", "base": BASE, "space": RATES} | changes


def parse(**changes: Any) -> SweepConfig:
    return parse_sweep(sweep_tree(**changes))


# What is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"space": {"learner.learning_rat": {"values": [1]}}},
            "unknown key learner.learning_rat; did you mean learner.le",
        ),
        ({"space": {"objective.options.bta": {"values": [1]}}}, "objective.options.bta"),
        ({"space": {"loop.eta": {"low": 1, "high": 1}}}, "the range from 1 to 1 is empty"),
        (
            {"space": {"loop.eta": {"low": 1, "hihg": 2}}},
            "unknown key space.loop.eta.hihg; did you mean space.loop.eta.high",
        ),
        ({"space": {"learner.learning_rate": {"low": 0, "high": 1, "log": True}}}, "a log axis can't begin at 0"),
        ({"space": {"learner.learning_rate": {"low": 1e-5, "high": 1}}}, "learner.learning_rate: a grid needs points"),
        ({"space": {"learner.learning_rate": {"values": [-1.0]}}}, "learner.learning_rate = -1.0"),
        ({"space": {"name": {"values": ["a"]}}}, "name belongs to the sweep"),
        ({"space": {}}, "space"),
        ({"changes": {"learner.learning_rate": 1}}, "stands in changes and in space"),
        ({"metrics": [{"metric": "winrate"}]}, "trials never report 'winrate'; did you mean 'win_rate'?"),
        ({"metrics": [{}, {}]}, "names one twice"),
        ({"base": {**BASE, "data": {"prompts": "prompts.jsonl"}, "evaluation": {}}}, "never report a win rate"),
        ({"search": {"method": "sobol"}}, "needs search.trials"),
        ({"search": {"method": "grid", "trials": 3}}, "remove search.trials"),
        ({"search": {"methd": "grid"}}, "unknown key search.methd; did you mean search.method?"),
        ({"scheduler": {"name": "asha"}, "metrics": [{}, {"metric": "kl"}]}, "compares one metric"),
        ({"scheduler": {"name": "asha"}, "space": {"loop.steps": {"values": [2, 4]}}}, "loop.steps varies"),
        ({"scheduler": {"name": "asha"}, "changes": {"evaluation.every": 4}}, "needs scores before the end"),
    ],
    ids=str,
)
def test_a_sweep_that_can_t_be_run_is_refused_with_what_is_wrong(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(**changes)
    assert message in str(refused.value)


def test_ray_client_is_refused_with_the_address_that_works(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", "nothing.yaml", "--address", "ray://head:10001"]) == 1
    assert "http://HEAD:8265" in capsys.readouterr().err


# What is run


def test_the_base_is_a_file_or_a_tree_and_overrides_reach_into_it(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(BASE), encoding="utf-8")
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(sweep_tree(base=str(tmp_path / "base.yaml"))), encoding="utf-8")
    assert load_sweep(path) == parse()
    changed = load_sweep(path, ["base.loop.steps=2", "seeds=[1, 2]"])
    assert changed.base["loop"]["steps"] == 2
    assert trials(changed) == 6


@pytest.mark.parametrize("method", ["grid", "random", "sobol", "tpe", "gp"])
def test_the_ready_sweep_can_be_run_with_every_method(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    count = "null" if method == "grid" else "16"
    found = load_sweep("configs/sweep.yaml", [f"search.method={method}", f"search.trials={count}", "seeds=[0]"])
    assert trials(found) == (10 if method == "grid" else 16)
    assert (searcher(found) is None) == (method in ("grid", "random", "sobol"))


@pytest.mark.parametrize("path", sorted((ROOT / "configs/scaling").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_scaling_experiments_can_be_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = load_sweep(path)
    assert found.scheduler.name == "none"
    assert len(probed_configs(found)) > 1


def test_every_point_of_a_grid_is_run_with_every_seed() -> None:
    found = parse(seeds=[3, 4], changes={"loop.eta": 1})
    runs = [
        trial_config(found, entry["index"], entry["seed"], entry["values"])
        for entry in parameter_space(found)["point"]["grid_search"]
    ]
    assert [(run.learner.learning_rate, run.seed) for run in runs] == [
        (rate, seed) for rate in (1e-5, 1e-4, 1e-3) for seed in (3, 4)
    ]
    assert {run.loop.eta for run in runs} == {1}
    assert len({run.name for run in runs}) == len(runs) == trials(found)
    assert {run.directory for run in runs} == {"runs/sweeps/sweep/trials"}


def test_a_trial_does_not_change_the_base() -> None:
    found = parse()
    trial_config(found, 0, 0, points(found)[2])
    assert found.base == BASE


@pytest.mark.parametrize(
    ("metrics", "metric", "mode"),
    [
        ([{}], "win_rate", "max"),
        ([{"metric": "win_rate"}, {"metric": "kl", "mode": "min"}], ["win_rate", "kl"], ["max", "min"]),
    ],
)
def test_one_objective_or_several_are_searched_for(metrics: Any, metric: Any, mode: Any) -> None:
    found = searcher(parse(metrics=metrics, search={"method": "tpe", "trials": 2}))
    assert found is not None
    assert (found.metric, found.mode) == (metric, mode)
    first: Any = found.suggest("a")
    assert first["point"]["index"] == 0
    assert 1e-5 <= first["point"]["values"]["learner.learning_rate"] <= 1e-3
    assert searcher(parse()) is None


def test_halving_stops_the_worse_at_equal_shares_and_nobody_at_the_end() -> None:
    """With reduction 2 and grace 25%, the rungs are at 25%, 50% and 100% of the schedule."""
    found = scheduler(parse(scheduler={"name": "asha", "grace": 0.25, "reduction": 2}), 1)
    assert found is not None

    class Runner:
        def __init__(self, trial_id: str) -> None:
            self.trial_id = trial_id
            self.config: dict[str, Any] = {}

    good, bad, last = (Runner(name) for name in ("good", "bad", "last"))
    for trial in (good, bad, last):
        found.on_trial_add(None, trial)  # type: ignore[arg-type]

    def decide(trial: Any, share: float, score: float) -> str:
        return str(found.on_trial_result(None, trial, {SHARE: share, "win_rate": score}))  # type: ignore[arg-type]

    assert decide(good, 25, 0.6) == "CONTINUE"
    assert decide(bad, 20, 0.1) == "CONTINUE"
    assert decide(bad, 25, 0.5) == "STOP"
    assert decide(good, 100, 0.6) == "CONTINUE"
    assert decide(last, 100, 0.1) in ("CONTINUE", "STOP")
    assert scheduler(parse(), 1) is None


# What is kept


STEP = {"kind": "step", "batch_trained_tokens": 10.0, "batch_generated_tokens": 4.0, "kl": 0.5, "groups": 2}
RATE = {"win_rate": {"mean": 0.6, "low": 0.5, "high": 0.7, "n": 4}, "ties": 0.1, "length_mean": 9.0, "seconds": 3.0}


@pytest.fixture
def trial(tmp_path: Path, tiny_model: Path) -> Trial:
    """A run directory of three updates, evaluated after the second."""
    run = config(name="trial-0000", directory=str(tmp_path), model__name=str(tiny_model))
    lines = [STEP | {"version": version, "seconds": float(version)} for version in (1, 2, 3)]
    lines.insert(3, {"kind": "evaluation", "version": 2, **RATE})
    folder = tmp_path / "trial-0000"
    folder.mkdir()
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text + '{"kind": "st', encoding="utf-8")
    return Trial(config=run, status="stopped_early", reason="stopped by the scheduler")


def test_a_process_that_is_kept_becomes_the_next_trial() -> None:
    tree = parse().model_dump(mode="json")
    first, second = ({"index": i, "seed": i, "values": {"learner.learning_rate": 1e-3 / 10**i}} for i in range(2))
    kept = object.__new__(AlignTrial)
    kept.setup({"sweep": tree, "point": first})
    assert kept.reset_config({"sweep": tree, "point": second})
    assert kept._run_config == trial_config(parse(), 1, 1, {"learner.learning_rate": 1e-4})


def test_no_evaluation_is_lost_that_was_made_before_an_earlier_one_was_noticed(trial: Trial) -> None:
    """A scheduler compares at every one of them."""
    with (trial.run_directory / "metrics.jsonl").open("w", encoding="utf-8") as file:
        for version in (2, 4, 6, 8):
            file.writelines(
                json.dumps(row | {"version": version}) + "\n" for row in (STEP, {"kind": "evaluation", **RATE})
            )
    late = object.__new__(AlignTrial)
    point = {"index": 0, "seed": 0, "values": {"learner.learning_rate": 1e-3}}
    late.setup({"sweep": parse().model_dump(mode="json"), "point": point})
    late._run_config = trial.config.model_copy(update={"loop": trial.config.loop.model_copy(update={"steps": 8})})
    late._directory = trial.run_directory
    late._run = threading.Thread()
    for version in (4, 8):
        late._reached.put(version)
    found = [late.step() for _ in range(4)]
    assert [(report["version"], report[SHARE]) for report in found] == [(2, 25.0), (4, 50.0), (6, 75.0), (8, 100.0)]
    assert [report["done"] for report in found] == [False, False, False, True]
    # Nothing more will come, and the trial says so instead of waiting for it.
    late._reached.put(8)
    with pytest.raises(RuntimeError, match=r"metrics\.jsonl has no version 8"):
        late.step()


def test_a_varied_tree_is_shown_by_its_name(trial: Trial) -> None:
    space = {"objective": {"values": [{"name": "online_dpo"}]}, "learner.learning_rate": {"values": [1e-3]}}
    progress = SweepProgress(parse(space=space), planned=1, together=1)
    rate = f"{trial.config.learner.learning_rate:.4g}"
    assert progress._values(row(trial)) == f"objective online_dpo, learner.learning_rate {rate}"


def test_the_history_has_every_evaluation_and_the_end(trial: Trial) -> None:
    found = history(trial.run_directory)
    assert [entry["version"] for entry in found] == [2, 3]
    assert (found[0]["win_rate"], found[0]["evaluated_length"], found[0]["tokens"]) == (0.6, 9.0, 20.0)
    assert "win_rate" not in found[1]
    assert (found[1]["tokens"], found[1]["generated_tokens"]) == (30.0, 12.0)
    assert history(trial.run_directory / "missing") == []


def test_a_row_has_configuration_sizes_metrics_and_how_it_ended(trial: Trial, tiny_model: Path) -> None:
    found = row(trial)
    tensors = load_file(tiny_model / "model.safetensors")
    parameters = sum(tensor.numel() for tensor in tensors.values())
    embedding = tensors["model.embed_tokens.weight"].numel()
    assert (found["model_parameters"], found["non_embedding_parameters"]) == (parameters, parameters - embedding)
    assert found["compute"] == parameters * (8 * 30 + 2 * 12)
    assert (found["status"], found["censored"], found["reason"]) == ("stopped_early", True, "stopped by the scheduler")
    assert (found["learner.learning_rate"], found["seed"]) == (trial.config.learner.learning_rate, 0)
    assert found["scoring.panel"] == '["tests.scripted_judges:more_letters"]'
    assert found["history.win_rate"] == [0.6, None]
    assert (found["kl"], found["win_rate"]) == (0.5, None)
    assert found["delay_rule.limit"] is None


def test_a_row_has_what_the_summary_says_of_time_and_staleness(trial: Trial) -> None:
    summary = {"loop_seconds": 30.5, "staleness": {"mean": 1.5, "max": 2}, "delay_rule": {"limit": 4.5, "delay": 2}}
    (trial.run_directory / "summary.json").write_text(json.dumps(summary))
    found = row(trial)
    assert (found["loop_seconds"], found["staleness.mean"], found["staleness.max"]) == (30.5, 1.5, 2)
    assert (found["delay_rule.limit"], found["delay_rule.delay"], found["delay_rule.moved_share"]) == (4.5, 2, None)


def test_trials_of_different_shape_share_one_table(trial: Trial, tmp_path: Path) -> None:
    first, other = row(trial), row(trial) | {"trial": "trial-0001", "learner.curve": 0.5, "objective.options.beta": 1}
    first["objective.options.beta"] = 0.25
    write_table(tmp_path / "trials.parquet", [first, other])
    table = pq.read_table(tmp_path / "trials.parquet").to_pylist()
    assert [entry["objective.options.beta"] for entry in table] == [0.25, 1.0]
    assert [entry["trial"] for entry in table] == ["trial-0000", "trial-0001"]
    assert table[0]["history.version"] == [2.0, 3.0]


def test_a_trial_that_never_began_is_a_row_too(tmp_path: Path, tiny_model: Path) -> None:
    run = config(name="trial-0000", directory=str(tmp_path), model__name=str(tiny_model))
    found = row(Trial(config=run, status="failed", reason="its process was lost"))
    write_table(tmp_path / "trials.parquet", [found])
    assert pq.read_table(tmp_path / "trials.parquet").to_pylist()[0]["tokens"] == 0.0


def test_an_unknown_model_has_no_size() -> None:
    assert model_size("./missing") == (0, 0)


def test_a_tree_is_flattened_by_dotted_keys() -> None:
    assert flattened({"a": {"b": 1, "c": {"d": [1, 2]}}, "e": None}) == {"a.b": 1, "a.c.d": "[1, 2]", "e": None}
    assert flattened(tree()["model"]) == {"name": "model", "dtype": "float32", "context": 128}


# Which is the best


def entry(name: str, status: str = "complete", **metrics: float | None) -> dict[str, Any]:
    return {"trial": name, "status": status, "win_rate": None, "kl": None} | metrics


def test_the_best_is_a_complete_trial_and_no_other_dominates_it() -> None:
    rows = [
        entry("a", win_rate=0.6, kl=2.0),
        entry("b", win_rate=0.8, kl=9.0),
        entry("c", win_rate=0.6, kl=3.0),
        entry("d", "stopped_early", win_rate=0.9, kl=1.0),
        entry("e", "failed"),
    ]
    one = parse().metrics
    both = parse(metrics=[{"metric": "win_rate"}, {"metric": "kl", "mode": "min"}]).metrics
    assert [found["trial"] for found in ranked(rows, one)] == ["b", "a", "c"]
    assert [found["trial"] for found in ranked(rows, both)] == ["b", "a", "c"]
    assert is_dominated(np.array([[0.6, -2.0], [0.8, -9.0], [0.6, -3.0]])).tolist() == [False, False, True]
    by_kl = parse(metrics=[{"metric": "kl", "mode": "min"}]).metrics
    assert [found["trial"] for found in ranked(rows, by_kl)] == ["a", "c", "b"]
    assert ranked([], one) == []


def test_time_left_counts_rounds() -> None:
    assert seconds_left([], 4, 1) is None
    assert seconds_left([10.0], 0, 1) is None
    assert seconds_left([10.0, 20.0], 4, 1) == 60.0
    assert seconds_left([10.0, 20.0], 5, 2) == 45.0
