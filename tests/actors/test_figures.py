"""Promise 9's arithmetic by hand, and the record of a run over several lives."""

import json
from pathlib import Path
from typing import Any

import pytest

from actors.figures import KEPT_PUBLICATIONS, Figures, Usage
from actors.publication import LoadReport
from actors.records import GroupSummary, Source
from actors.run_record import RunRecord
from algorithms.objective import build_objective
from algorithms.sampling import Update

AGE = Update().age
OBJECTIVE = build_objective("online_ipo", {"beta": 0.1})
LEDGER = {"admitted": 4, "trained": 2, "rejected": 0, "in_flight": 2}
METRICS = {
    "loss": 0.5,
    "kl": 1.5,
    "learner_busy_seconds": 0.0,
    "batch_trained_tokens": 300.0,
    "batch_completions": 8.0,
    "batch_generated_tokens": 200.0,
}


def report(engine: str, kl: float = 0.0, largest: float = 0.0) -> LoadReport:
    return LoadReport(
        version=1, engine=engine, seconds=1.0, paused_seconds=0.1, mismatch_kl=kl, mismatch_max_abs=largest
    )


def source(version: int, role: str = "pair", policy: str = "current") -> Source:
    return Source(role=role, policy=policy, version=version)


def summary_of(index: int, *lengths: int) -> GroupSummary:
    return GroupSummary(
        id=f"g{index}", index=index, sources=(source(0),), prompt_tokens=3, lengths=lengths, truncated=0
    )


def lines(folder: Path, kind: str | None = None) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if kind in (None, line["kind"])]


# Figures


def test_idle_shares_are_of_the_interval_and_of_each_member() -> None:
    before = Usage(wall=10, rollout=8, scoring=1, learner=5)
    used = Usage(wall=20, rollout=24, scoring=2, learner=12).since(before, engines=2, scorers=4)
    assert used == pytest.approx(
        {"idle_rollout": 0.2, "idle_scoring": 0.975, "idle_learner": 0.3, "overlap_efficiency": 0.8}
    )


def test_no_plane_is_busy_longer_than_all_the_time() -> None:
    used = Usage(wall=1, rollout=1.1, scoring=1.1, learner=1.1).since(Usage(), 1, 1)
    assert used["overlap_efficiency"] == 1.0
    assert [used[key] for key in ("idle_rollout", "idle_scoring", "idle_learner")] == [0, 0, 0]


def test_staleness_is_counted_by_group() -> None:
    figures = Figures()
    batch = [(source(3),), (source(2),), (source(2),)]
    assert figures.trained(3, batch, AGE) == {"staleness_mean": pytest.approx(2 / 3), "staleness_max": 1.0}
    figures.trained(4, [(source(1),)], AGE)
    staleness = figures.summary(Usage(wall=1), 1, 1, bound=3)["staleness"]
    assert staleness == {"bound": 3, "max": 3, "mean": 1.25, "histogram": {"0": 1, "1": 2, "3": 1}}


def test_staleness_is_counted_by_role() -> None:
    figures = Figures()
    batch = [
        (source(1), source(3, "opponent"), source(2, "opponent", "previous(1)")),
        (source(2), source(2, "opponent")),
    ]
    assert figures.trained(3, batch, AGE) == {
        "staleness_mean": 1.5,
        "staleness_max": 2.0,
        "opponent_staleness_mean": 0.5,
        "opponent_staleness_max": 1.0,
    }
    staleness = figures.summary(Usage(wall=1), 1, 1, bound=2, late_bound=1)["staleness"]
    assert (staleness["bound"], staleness["histogram"]) == (2, {"1": 1, "2": 1})
    assert staleness["opponent"] == {"bound": 1, "max": 1, "mean": 0.5, "histogram": {"0": 1, "1": 1}}


def test_a_publication_is_as_good_as_its_worst_engine() -> None:
    figures = Figures()
    line = figures.published([report("a", 0.1, 0.5), report("b", 0.3, 0.2)], seconds=2.0, exposed=0.4)
    assert line == {
        "publication_seconds": 2.0,
        "exposed_publication_seconds": 0.4,
        "mismatch_kl": 0.3,
        "mismatch_max_abs_logprob": 0.5,
    }
    figures.published([report("a"), report("b")], seconds=1.0, exposed=0.1)
    figures.published([report("a"), report("b")], seconds=9.0, exposed=0.2)
    found = figures.summary(Usage(wall=1), 2, 1, 0)
    assert found["publication"] == {"count": 3, "seconds_median": 2.0, "exposed_seconds_median": 0.2}
    assert found["mismatch"] == {"kl": 0.3, "max_abs_logprob": 0.5}, "the worst of the whole run"


def test_figures_do_not_grow_with_the_run() -> None:
    figures = Figures()
    for version in range(2 * KEPT_PUBLICATIONS):
        figures.published([report("a")], 1.0, 0.1)
        figures.trained(version, [(source(version),)], AGE)
    assert figures.publications == 2 * KEPT_PUBLICATIONS
    assert len(figures.publication_seconds) == len(figures.exposed_seconds) == KEPT_PUBLICATIONS
    assert len(json.dumps(figures.snapshot())) < 20 * KEPT_PUBLICATIONS


def test_throughput_counts_from_the_first_batch() -> None:
    figures = Figures(begun=Usage(wall=10, rollout=4, learner=0))
    figures.generated(summary_of(0, 5, 7))
    figures.generated(summary_of(1, 8))
    figures.trained_tokens = 50
    found = figures.summary(Usage(wall=20, rollout=9, learner=2), 1, 1, 0)
    assert found["throughput"] == {
        "completions_per_second": 0.3,
        "generated_tokens_per_second": 2.0,
        "learner_tokens_per_second": 5.0,
    }
    assert found["overlap_efficiency"] == 0.5
    assert found["idle"] == {"rollout": 0.5, "scoring": 1.0, "learner": 0.8}


def test_figures_survive_a_snapshot_through_json() -> None:
    figures = Figures(begun=Usage(wall=3.0, rollout=1.0))
    figures.trained(3, [(source(3),), (source(1),)], AGE)
    figures.generated(summary_of(0, 5, 7))
    figures.published([report("a", 0.25, 0.5)], 2.0, 0.5)
    assert Figures.restore(json.loads(json.dumps(figures.snapshot()))) == figures


# RunRecord


def record_steps(record: RunRecord, versions: range, busy: float = 0.0) -> None:
    for version in versions:
        record.released(version - 1, [(source(version - 1),), (source(max(version - 2, 0)),)], (busy, busy))
        record.step(version, METRICS, (busy, busy), LEDGER)


def test_a_step_is_one_line_of_metrics(tmp_path: Path) -> None:
    record = RunRecord(str(tmp_path), OBJECTIVE, engines=1, scorers=1)
    record.published([report("engine-0", 0.1, 0.2)], 1.5, 0.3)
    record_steps(record, range(1, 3))
    record.close()
    first, second = lines(tmp_path)
    assert (second["kind"], second["version"], second["groups"]) == ("step", 2, 2)
    assert (second["staleness_mean"], second["staleness_max"]) == (0.5, 1.0)
    assert (second["publication_seconds"], second["exposed_publication_seconds"]) == (1.5, 0.3)
    assert (second["mismatch_kl"], second["mismatch_max_abs_logprob"]) == (0.1, 0.2)
    assert second["loss"] == 0.5
    assert 0 <= first["seconds"] <= second["seconds"] < 60
    assert second["learner_tokens_per_second"] == pytest.approx(300 / 8 * second["completions_per_second"])
    assert second["generated_tokens_per_second"] == pytest.approx(200 / 8 * second["completions_per_second"])
    assert {"idle_rollout", "idle_scoring", "idle_learner", "overlap_efficiency"} <= second.keys()
    assert list((tmp_path / "tensorboard").iterdir())


def test_numbers_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    record = RunRecord(str(tmp_path), OBJECTIVE, 1, 1)
    record.released(0, [(source(0),)], (0.0, 0.0))
    record.step(1, METRICS | {"loss": float("nan")}, (0.0, 0.0), LEDGER)
    record.close()
    assert "loss" not in lines(tmp_path)[0]
    assert "kl" in lines(tmp_path)[0]


def test_events_are_lines_in_order(tmp_path: Path) -> None:
    record = RunRecord(str(tmp_path), OBJECTIVE, 1, 1)
    record.event("admitted", group="g0", version=0)
    record.event("rejected", group="g0", reason="scorer_error")
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["admitted", "rejected"], "on disk before the run is closed"
    assert events[1]["reason"] == "scorer_error"
    assert events[0]["time"] <= events[1]["time"]
    record.close()


def evaluation(mean: float) -> dict[str, Any]:
    return {"win_rate": {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "n": 10}, "ties": 0.0}


def test_the_goal_is_reached_once(tmp_path: Path) -> None:
    record = RunRecord(str(tmp_path), OBJECTIVE, 1, 1)
    record.evaluation(1, evaluation(0.69))
    assert record.summary((0.0, 0.0), 2)["seconds_to_win_rate_0_70"] is None
    record.evaluation(2, evaluation(0.70))
    reached = record.summary((0.0, 0.0), 2)["seconds_to_win_rate_0_70"]
    assert reached == lines(tmp_path, "evaluation")[1]["seconds"]
    record.evaluation(3, evaluation(0.9))
    found = record.summary((0.0, 0.0), 2)
    assert found["seconds_to_win_rate_0_70"] == reached
    assert found["win_rate"]["mean"] == 0.9
    assert found["staleness"]["bound"] == 2
    record.close()


def resumed(folder: Path, snapshot: dict[str, Any], version: int) -> RunRecord:
    record = RunRecord(str(folder), OBJECTIVE, 1, 1)
    record.resume(json.loads(json.dumps(snapshot)), version)
    return record


def test_a_resumed_run_drops_what_it_will_measure_again(tmp_path: Path) -> None:
    record = RunRecord(str(tmp_path), OBJECTIVE, 1, 1)
    record_steps(record, range(1, 4))
    record.evaluation(2, evaluation(0.8))
    snapshot = record.snapshot()
    record_steps(record, range(4, 6))
    record.evaluation(5, evaluation(0.6))
    record.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "step", "vers')  # cut by a kill
    again = resumed(tmp_path, snapshot, 3)
    assert [(line["kind"], line["version"]) for line in lines(tmp_path)] == [
        ("step", 1),
        ("step", 2),
        ("step", 3),
        ("evaluation", 2),
    ]
    record_steps(again, range(4, 5))
    again.close()
    assert lines(tmp_path)[-1]["version"] == 4
    assert lines(tmp_path)[-1]["seconds"] >= snapshot["usage"]["wall"]


def test_figures_of_a_resumed_run_count_both_lives_once(tmp_path: Path) -> None:
    record = RunRecord(str(tmp_path), OBJECTIVE, 1, 1)
    record_steps(record, range(1, 3), busy=2.0)
    record.released(2, [(source(2),), (source(2),)], (2.0, 2.0))  # handed over, but not trained before the kill
    record.evaluation(2, evaluation(0.8))
    snapshot = record.snapshot()
    record.close()
    again = resumed(tmp_path, snapshot, 2)
    before_batch = again.summary((0.0, 0.0), 0)
    assert before_batch["kl"] == 1.5
    assert before_batch["seconds_to_win_rate_0_70"] == snapshot["goal_seconds"]
    record_steps(again, range(3, 4), busy=0.0)
    found = again.summary((0.0, 0.0), 0)
    assert sum(found["staleness"]["histogram"].values()) == 6, "two groups a version, three versions"
    again.close()


def test_a_resumed_run_remembers_how_busy_the_planes_were(tmp_path: Path) -> None:
    record = RunRecord(str(tmp_path), OBJECTIVE, 1, 1)
    record.released(0, [(source(0),)], (0.0, 0.0))
    record.step(1, METRICS | {"learner_busy_seconds": 3.0}, (5.0, 1.0), LEDGER)
    snapshot = record.snapshot()
    record.close()
    snapshot["usage"]["wall"] = 10.0
    again = resumed(tmp_path, snapshot, 1)
    idle = again.summary((0.0, 0.0), 0)["idle"]
    assert idle == pytest.approx({"rollout": 0.5, "scoring": 0.9, "learner": 0.7}, abs=0.1)
    again.released(1, [(source(1),)], (0.0, 0.0))
    again.step(2, METRICS, (0.0, 0.0), LEDGER)
    assert lines(tmp_path)[-1]["idle_rollout"] == 1.0, "an earlier life is no part of this interval"
    again.close()


def test_the_delay_rule_is_evaluated_on_the_measured_step(tmp_path: Path) -> None:
    """Share 0.2 of the way at beta 0.1 is eta = 2: opponents may be up to 8 beta / eta - 1/2 < 0 updates old."""
    record = RunRecord(str(tmp_path), OBJECTIVE, 1, 1)
    assert record.summary((0.0, 0.0), 2)["delay_rule"] is None
    for version, share in ((1, 0.3), (2, 0.1)):
        record.released(version - 1, [(source(0),)], (0.0, 0.0))
        record.step(version, METRICS | {"moved_share": share}, (0.0, 0.0), LEDGER)
    found = record.summary((0.0, 0.0), 2)["delay_rule"]
    assert found == pytest.approx(
        {"moved_share": 0.2, "step_size": 2.0, "temperature": 0.1, "limit": -0.1, "delay": 1, "kept": False}
    )
    record.close()


def test_status_says_where_the_run_is(tmp_path: Path) -> None:
    record = RunRecord(str(tmp_path), OBJECTIVE, 1, 1)
    assert record.status((0.0, 0.0))["evaluation"] is None
    assert record.status((0.0, 0.0))["latest"] == {}
    record_steps(record, range(1, 3))
    record.evaluation(2, evaluation(0.8))
    status = record.status((0.0, 0.0))
    assert status["evaluation"]["version"] == 2
    assert status["latest"]["loss"] == 0.5
    assert status["staleness_mean"] == 0.25
    assert status["seconds"] >= status["begun_seconds"] >= 0
    record.close()
