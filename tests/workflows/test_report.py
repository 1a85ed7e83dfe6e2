"""The report says what the run directory says, whatever is missing there, and is inert."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.finished_run import SUMMARY, Page, Row, build_run, evaluation_rows, page_of, sample_rows, state_of, step_rows
from workflows.drawing import running_mean, thin
from workflows.report import main, verdict, write_report
from workflows.report_plots import figures
from workflows.report_promises import promises
from workflows.report_run import read_run


def leaves(tree: Row, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def test_every_figure_of_the_summary_is_on_the_page_with_its_exact_value(tmp_path: Path) -> None:
    page = page_of(build_run(tmp_path))
    summary = leaves(json.loads((tmp_path / "summary.json").read_text()))
    numbers = {key: value for key, value in summary.items() if isinstance(value, int | float)}
    assert {key: float(page.values[key] or "nan") for key in numbers} == numbers
    shown = {key: float(value) for key, value in page.headline.items() if value}
    assert shown == {key: numbers[key] for key in shown}
    assert {"win_rate.mean", "kl", "ledger.trained", "ledger.admitted", "overlap_efficiency"} <= shown.keys()
    assert "interval 0.71 to 0.89" in page.text
    assert "8 min 12 s wall time" in page.text


def test_what_was_run_and_every_figure_is_there(tmp_path: Path) -> None:
    page = page_of(build_run(tmp_path))
    names = "smollm2-135m-instruct,online_dpo,workflows.judges:brevity,heldout.jsonl,3f9c2d1e,cores 2,vllm 0.32.0"
    for expected in (*names.split(","), "python -m workflows.align --config configs/demo.yaml"):
        assert expected in page.text
    drawn = sum(tag == "svg" for tag, _ in page.tags)
    assert drawn == sum(tag == "figcaption" for tag, _ in page.tags) == 11
    assert "nothing was recorded" not in page.text
    assert "Missing from this run" not in page.text


@pytest.mark.parametrize(("low", "tone"), [(0.7, "good"), (0.51, "good"), (0.45, "unknown"), (0.2, "bad")])
def test_the_verdict_follows_the_interval(tmp_path: Path, low: float, tone: str) -> None:
    run = read_run(build_run(tmp_path, win_rate={"mean": low + 0.05, "low": low, "high": low + 0.1, "n": 96}))
    words = {"good": "It worked", "unknown": "Not shown", "bad": "It got worse"}
    assert verdict(run)[0] == tone
    assert verdict(run)[1].startswith(words[tone])


def test_text_of_models_and_people_is_inert(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script><img src=http://example.org/a.png onerror=alert(1)>\"'$x$ & </style>"
    samples = [{"prompt": evil, "start": evil, "final": evil, "probability": 1, "judges": {evil: 1}}]
    evaluations = [row | {"judges": {evil: 0.6}} for row in evaluation_rows()]
    build_run(tmp_path, None, evaluations, samples, rejections={evil: 3}, status=evil, model=evil)
    (tmp_path / "config.yaml").write_text(f"name: {evil!r}\n", encoding="utf-8")
    page = page_of(tmp_path)
    assert not {"script", "img", "iframe", "object", "embed", "link"} & {tag for tag, _ in page.tags}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert page.text.count("<script>alert('x')</script>") >= 8


def test_the_page_loads_nothing(tmp_path: Path) -> None:
    source = write_report(build_run(tmp_path)).read_text(encoding="utf-8")
    page = Page(source)
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            assert (attributes.get(name) or "#").startswith("#")
    assert not re.search(r"https?:|//[a-z]|@import|@font-face|url\((?!#)", source)
    policies = [a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in str(policies)
    anchors = {a["href"] for tag, a in page.tags if tag == "a"}
    identifiers = [a["id"] for _, a in page.tags if a.get("id")]
    assert len(identifiers) == len(set(identifiers))
    assert {f"#{name}" for name in identifiers} >= anchors
    used = set(re.findall(r"url\(#([^)]+)\)", source)) | set(re.findall(r'xlink:href="#([^"]+)"', source))
    assert used <= set(identifiers)


def test_equal_runs_have_equal_reports(tmp_path: Path) -> None:
    run = build_run(tmp_path)
    assert write_report(run).read_bytes() == write_report(run).read_bytes()
    assert sorted(path.name for path in run.glob("report*")) == ["report.html"]


def test_a_run_without_evaluations_says_so(tmp_path: Path) -> None:
    page = page_of(build_run(tmp_path, evaluations=[], seconds_to_win_rate_0_70=None))
    assert "Not known" in page.text
    assert "No evaluation was recorded" in page.text
    assert "It worked" not in page.text
    assert "not reached" not in page.text


def test_a_run_without_steps_says_so(tmp_path: Path) -> None:
    page = page_of(build_run(tmp_path, steps=[], evaluations=[], samples=[], status="failed: no room"))
    assert "No step was trained: the policy is still the start." in page.text
    assert "not known to have finished (status: failed: no room)" in page.text
    assert "No samples were recorded." in page.text


def test_an_empty_directory_gives_a_page_that_names_what_is_missing(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    for name in ("config.yaml", "environment.json", "metrics.jsonl", "samples.jsonl", "summary.json"):
        assert f"{name} is missing." in page.text
    assert not any(tag == "svg" for tag, _ in page.tags)


def test_a_run_that_was_killed_is_told_from_its_metrics(tmp_path: Path) -> None:
    build_run(tmp_path, evaluations=evaluation_rows((0.5, 0.62, 0.71)))
    (tmp_path / "summary.json").unlink()
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as metrics:
        metrics.write('{"kind": "step", "version": 53, "los')
    page = page_of(tmp_path)
    assert "line 56 of 56 is unreadable" in page.text
    assert float(page.headline["win_rate.mean"] or 0) == 0.71
    assert float(page.headline["seconds_to_win_rate_0_70"] or 0) == 154.0
    assert state_of(tmp_path, "Exactly once") == "not measured"
    assert "not known to have finished" in page.text


def test_a_version_that_was_trained_again_counts_once(tmp_path: Path) -> None:
    steps = [*step_rows(5)[::-1], {"kind": "step", "version": 3, "kl": 7.0}]
    run = read_run(build_run(tmp_path, steps))
    assert [row["version"] for row in run.steps] == [1, 2, 3, 4, 5]
    assert run.steps[2]["kl"] == 7.0


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "", [], {}])
def test_values_that_are_no_numbers_leave_gaps(tmp_path: Path, value: Any) -> None:
    def emptied(row: Row) -> Row:
        return {key: row[key] if key in ("kind", "version") else value for key in row}

    steps, evaluations = map(emptied, step_rows(12)), map(emptied, evaluation_rows())
    samples = [*map(emptied, sample_rows(1)), {"judges": {"warmth": value}}]
    nothing = dict.fromkeys(["win_rate", *yaml.safe_load(SUMMARY)], value)
    page = page_of(build_run(tmp_path, list(steps), list(evaluations), samples, **nothing))
    assert "not measured" in page.text
    assert not re.search(r"\b(nan|inf)\b", page.text)
    assert not {"kept", "broken"} & {state for _, _, state in promises(read_run(tmp_path))}


def test_rules_that_were_broken_are_listed_with_version_and_reason(tmp_path: Path) -> None:
    assert "Rules that were broken" not in page_of(build_run(tmp_path)).text
    alarms = [
        {"version": 12, "rule": "chosen_falls", "stop": False, "reason": "chosen_logprob goes on falling"},
        {"version": 31, "rule": "entropy_collapse", "stop": True, "reason": "entropy < half of <b>the start</b>"},
        {"version": None},
    ]
    (tmp_path / "alarms.jsonl").write_text("".join(json.dumps(row) + "\n" for row in alarms))
    text = page_of(tmp_path).text
    assert "Version 12, chosen_falls: chosen_logprob goes on falling." in text
    assert "Version 31, entropy_collapse, which ended the run: entropy < half of <b>the start</b>." in text


def test_what_held_out_scorers_say_has_a_card(tmp_path: Path) -> None:
    assert "held-out scorers" not in page_of(build_run(tmp_path)).text
    rows = [row | {"gold_win_rate": {"mean": 0.41, "low": 0.3, "high": 0.52}} for row in evaluation_rows()]
    page = page_of(build_run(tmp_path, evaluations=rows))
    assert page.headline["gold_win_rate.mean"] == "0.41"
    assert "95% interval 0.30 to 0.52" in page.text


def test_what_was_measured_beside_the_run_is_drawn(tmp_path: Path) -> None:
    """In the order of the versions, and the last measurement of each."""
    drawn = "Measurements of checkpoints, over versions"
    assert drawn not in [attributes.get("aria-label") for _, attributes in page_of(build_run(tmp_path)).tags]
    rows = [{"version": version, "kl": 0.1 * version, "top_mass": 0.8, "ranking_accuracy": 0.5} for version in (20, 10)]
    later = rows[0] | {"kl": 0.7}
    (tmp_path / "diagnostics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (*rows, later)))
    assert [(row["version"], row["kl"]) for row in read_run(tmp_path).diagnostics] == [(10, 1.0), (20, 0.7)]
    assert drawn in [attributes.get("aria-label") for _, attributes in page_of(tmp_path).tags]


def test_a_long_run_stays_a_small_page() -> None:
    steps = [{"version": place, "seconds": 8.0 * place, "loss": math.sin(place)} for place in range(20_000)]
    assert len(figures(steps, [], {})["optimiser"] or "") < 200_000


def test_rewards_and_weights_are_drawn_under_their_names() -> None:
    steps = [{"version": v, "disagreement": 0.2, "reward/a.brief/head": v, "weight/warmth": 0.5} for v in range(3)]
    drawn = figures(steps, [], {})["scoring"] or ""
    for text in ("Disagreement", "a.brief/head", "Weights of the objectives", "warmth"):
        assert text in drawn
    judges_only = figures([{"version": 1, "disagreement": 0.2}], [], {})["scoring"] or ""
    assert "Disagreement" in judges_only
    assert "Weights" not in judges_only


def test_means_leave_gaps_out() -> None:
    values = np.array([1.0, np.nan, 3.0, 5.0])
    np.testing.assert_allclose(running_mean(values, window=3), [1.0, np.nan, 4.0, 4.0])
    long = np.array([np.nan, *range(1, 1200)])
    np.testing.assert_allclose(thin(long)[:3], [1.0, 2.5, 4.5])


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere")]) == 1
    assert "nowhere is not a run directory" in capsys.readouterr().err
    assert main([str(build_run(tmp_path))]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "report.html")
