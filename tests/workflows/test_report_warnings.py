"""A report says which promises were kept, and warns of what to look at twice, with its cause and only then."""

import json
import math
from pathlib import Path

import pytest

from tests.finished_run import Row, build_run, evaluation_rows, page_of, state_of, step_rows
from workflows.report import warnings
from workflows.report_promises import promises
from workflows.report_run import read_run


def test_a_sound_run_breaks_no_promise(tmp_path: Path) -> None:
    states = {state for _, _, state in promises(read_run(build_run(tmp_path)))}
    assert states == {"kept", "not measured", "not applicable"}
    assert "Balanced" in page_of(tmp_path).text


@pytest.mark.parametrize(
    ("promise", "changed"),
    [
        ("Exactly once", {"ledger": {"admitted": 424, "trained": 416, "rejected": 3, "in_flight": 4}}),
        ("Exactly once", {"rejections": {"generation_failed": 2}}),
        ("Staleness", {"staleness": {"bound": 2, "max": 3, "mean": 1.0, "histogram": {"1": 416}}}),
        ("Staleness", {"staleness": {"bound": 2, "max": 2, "mean": 1.0, "histogram": {"1": 400, "3": 16}}}),
        ("Staleness", {"staleness": {"bound": 2, "max": 2, "opponent": {"bound": 0, "max": 1}}}),
        ("The staleness that theory", {"delay_rule": {"moved_share": 0.1, "limit": 0.3, "delay": 1}}),
        ("Staleness", {"rejections": {"too_stale": 3}}),
        ("A publication", {"publication": {"count": 0}}),
    ],
)
def test_a_broken_promise_is_shown_as_broken(tmp_path: Path, promise: str, changed: Row) -> None:
    build_run(tmp_path, steps=step_rows(2), evaluations=[], samples=[], **changed)
    assert state_of(tmp_path, promise) == "broken"
    page = page_of(tmp_path)
    assert f"Broken promise. {promise}" in page.text
    assert any("broken" in str(a.get("class")).split() for tag, a in page.tags if tag == "span")


def test_a_limit_below_no_delay_at_all_is_said_in_words(tmp_path: Path) -> None:
    build_run(tmp_path, delay_rule={"moved_share": 3.0, "limit": -0.49, "delay": 0})
    text = page_of(tmp_path).text
    assert "no delay is safe with steps so large, the largest delay was 0" in text
    assert "below -0.49" not in text


@pytest.mark.parametrize(("low", "kl", "state"), [(0.45, 0, "kept"), (0.52, 0, "broken"), (0.45, 0.5, "broken")])
def test_a_learning_rate_of_0_is_held_to_its_promise(tmp_path: Path, low: float, kl: float, state: str) -> None:
    steps = [row | {"learning_rate": 0.0} for row in step_rows(12)]
    build_run(tmp_path, steps=steps, kl=kl, win_rate={"mean": 0.53, "low": low, "high": 0.57, "n": 96})
    assert state_of(tmp_path, "A learning rate of 0") == state


def test_deaths_are_counted_from_the_events(tmp_path: Path) -> None:
    build_run(tmp_path)
    assert state_of(tmp_path, "Any actor may die") == "not measured"
    lines = [json.dumps({"time": 1.5, "event": event}) for event in ("admitted", "restarted", "restarted")]
    (tmp_path / "events.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert state_of(tmp_path, "Any actor may die") == "kept"
    assert any("restarted 2" in measured for _, measured, _ in promises(read_run(tmp_path)))


@pytest.mark.parametrize(
    ("words", "steps", "changed"),
    [
        ("KL is very high", {}, {"kl": 63.0}),
        ("Many groups were rejected", {}, {"ledger": {"admitted": 100, "rejected": 20}}),
        ("Staleness is at its bound", {}, {"staleness": {"bound": 2, "max": 2, "mean": 1.97}}),
        ("Engine and learner disagree", {}, {"mismatch": {"kl": 0.4, "max_abs_logprob": 3.0}}),
        ("Publications hold up the learner and the engines", {}, {"publication": {"exposed_seconds_median": 2.0}}),
        ("The win rate fell", {}, {"win_rate": {"mean": 0.6, "low": 0.55, "high": 0.65, "n": 96}}),
        ("Entropy collapsed", {"entropy": lambda done: 2.0 - 1.9 * done}, {}),
        ("were cut off at the length limit", {"truncated_share": lambda done: 0.6}, {}),
        ("were dropped as ties", {"dropped_pairs": lambda done: 200}, {}),
        ("is missing or not finite", {"loss": lambda done: math.nan}, {}),
    ],
)
def test_a_warning_appears_with_its_cause(tmp_path: Path, words: str, steps: Row, changed: Row) -> None:
    rows = step_rows(52)
    assert words not in " ".join(warnings(read_run(build_run(tmp_path / "sound", steps=rows))))
    caused = [row | {key: cause(row["version"] / 52) for key, cause in steps.items()} for row in rows]
    assert words in " ".join(warnings(read_run(build_run(tmp_path / "marred", steps=caused, **changed))))


def test_a_win_rate_below_the_best_by_chance_is_no_fall(tmp_path: Path) -> None:
    within_the_intervals = {"mean": 0.65, "low": 0.58, "high": 0.72, "n": 96}
    assert not any("fell" in text for text in warnings(read_run(build_run(tmp_path, win_rate=within_the_intervals))))


@pytest.mark.parametrize(("factor", "words"), [(0.4, "Lengths collapsed"), (2.0, "Lengths exploded")])
def test_lengths_that_run_away_are_warned_of(tmp_path: Path, factor: float, words: str) -> None:
    rows = [row | {"length_mean": 50.0 if row["version"] < 20 else 50 * factor} for row in evaluation_rows()]
    assert words in " ".join(warnings(read_run(build_run(tmp_path, evaluations=rows))))
