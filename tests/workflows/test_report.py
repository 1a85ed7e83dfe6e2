"""The report says what the run directory says, whatever is missing there, and is inert."""

import json
import math
import re
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from workflows.drawing import running_mean, thin
from workflows.report import main, verdict, warnings, write_report
from workflows.report_plots import figures
from workflows.report_promises import promises
from workflows.report_run import read_run

Row = dict[str, Any]
WALK = "Take a slow walk by the river and write down three small things that made you smile today. "
QUANTITIES = """
loss 0.69 0.45 0.03                  margin 0 0.9 0.08                  accuracy 0.52 0.79 0.04
kl 0 19 0.8                          kl_k3 0 23 1.2                     entropy 2.3 1.7 0.05
chosen_logprob -96 -102 2.5          rejected_logprob -97 -116 3        length_mean 52 41 1.6
truncated_share 0.2 0.06 0.02        gradient_norm 2.4 2.1 0.5          learning_rate 3e-4 1e-5 0
pairs 44 40 2                        dropped_pairs 4 8 2                clipped 0.4 0.4 0.1
staleness_mean 1.1 1.1 0.2           staleness_max 2 2 0                overlap_efficiency 0.9 0.9 0.02
idle_rollout 0.1 0.1 0.03            idle_scoring 0.96 0.96 0.01        idle_learner 0.24 0.24 0.06
publication_seconds 0.6 0.6 0.06     mismatch_kl 6e-4 6e-4 1e-4         completions_per_second 3.8 4.1 0.2
exposed_publication_seconds 0.03 0.03 0.01                            mismatch_max_abs_logprob 0.06 0.06 0.01
generated_tokens_per_second 178 170 9                                   learner_tokens_per_second 410 390 22
disagreement 0.31 0.36 0.02           reward/warmth 0.2 0.6 0.05           reward/a.brief/head 12 19 0.9
weight/warmth 0.5 0.32 0.01           weight/a.brief/head 0.5 0.61 0.01
"""
"""Name, value at the start, value at the end and noise of what a step measures."""
CONFIG = """
name: demo
seed: 0
model: {name: smollm2-135m-instruct, dtype: bfloat16}
data: {prompts: configs/prompts/train.jsonl, heldout: configs/prompts/heldout.jsonl}
objective: {name: online_dpo, options: {beta: 0.1, candidates: 4, link: logistic}}
loop: {steps: 52, batch: 8, eta: 2}
learner: {method: lora, learning_rate: 0.0003}
scoring:
  panel: ["workflows.judges:warmth", "workflows.judges:brevity", "workflows.judges:concreteness"]
"""
ENVIRONMENT = """
versions: {python: 3.11.7, torch: 2.13.0, vllm: 0.32.0, ray: 2.60.0}
commit: 3f9c2d1e
hardware: {cpu: x86-64, cores: 2, memory_gib: 15.6, gpus: []}
command: python -m workflows.align --config configs/demo.yaml
"""
SUMMARY = """
ledger: {admitted: 423, trained: 416, rejected: 3, in_flight: 4}
rejections: {generation_failed: 2, scorer_lost: 1}
staleness: {bound: 2, max: 2, mean: 1.0714, histogram: {"0": 40, "1": 326, "2": 50}}
overlap_efficiency: 0.90317
idle: {rollout: 0.0987, scoring: 0.9711, learner: 0.2423}
publication: {count: 52, seconds_median: 0.6173, exposed_seconds_median: 0.0309}
mismatch: {kl: 0.00081, max_abs_logprob: 0.0913}
throughput: {completions_per_second: 3.81, generated_tokens_per_second: 178.4, learner_tokens_per_second: 412}
kl: 18.731
wall_seconds: 492.318
seconds_to_win_rate_0_70: 272.0
seed: 0
versions: {python: 3.11.7, torch: 2.13.0}
model: smollm2-135m-instruct
objective: online_dpo
status: finished
"""


def step_rows(count: int) -> list[Row]:
    """Steps of a run of about eight minutes on two cores, noisy as a real one."""
    random = np.random.default_rng(0)
    words = QUANTITIES.split()
    quantities = {words[i]: [float(word) for word in words[i + 1 : i + 4]] for i in range(0, len(words), 4)}
    rows: list[Row] = []
    for version in range(1, count + 1):
        row: Row = {"kind": "step", "version": version, "seconds": 38 + 8.4 * version, "groups": 8 * version}
        for name, (begin, end, noise) in quantities.items():
            value = begin + (end - begin) * version / count + noise * random.normal()
            row[name] = max(0.0, value) if begin >= 0 else value
        rows.append(row)
    return rows


def evaluation_rows(rates: Iterable[float] = (0.5, 0.56, 0.61, 0.66, 0.72, 0.75, 0.78, 0.8)) -> list[Row]:
    """Evaluations every seven versions."""
    rows: list[Row] = []
    for place, mean in enumerate(rates):
        rate = {"mean": mean, "low": mean - 0.09, "high": mean + 0.09, "n": 96}
        row: Row = {
            "kind": "evaluation",
            "version": 7 * place,
            "seconds": 36.0 + 59.0 * place,
            "win_rate": rate,
        }
        row["judges"] = {"warmth": 1.2 * mean - 0.1, "brevity": 0.7 * mean + 0.15, "concreteness": 0.5}
        rows.append(row | {"ties": 0.08 - 0.005 * place, "length_mean": 51.0 - 1.4 * place})
    return rows


def sample_rows(count: int = 10) -> list[Row]:
    """Samples with every kind of verdict."""
    rows: list[Row] = []
    for place in range(count):
        row: Row = {"prompt": f"Suggest something pleasant for a rainy Sunday, number {place + 1}."}
        row |= {
            "start": WALK * 3,
            "final": "What a lovely idea! " + WALK,
            "probability": float(place % 3 != 2),
        }
        row["judges"] = {"warmth": 1, "brevity": [1, 0.5, 0][place % 3], "concreteness": [0, 1][place % 2]}
        rows.append(row)
    return rows


def build_run(
    directory: Path,
    steps: list[Row] | None = None,
    evaluations: list[Row] | None = None,
    samples: list[Row] | None = None,
    **changed: Any,
) -> Path:
    """A run directory as a finished run leaves it; `changed` replaces keys of its summary."""
    steps = step_rows(52) if steps is None else steps
    evaluations = evaluation_rows() if evaluations is None else evaluations
    samples = sample_rows() if samples is None else samples
    rate = evaluations[-1]["win_rate"] if evaluations else None
    summary = {"win_rate": rate, **yaml.safe_load(SUMMARY), **changed}
    files = {
        "config.yaml": CONFIG,
        "environment.json": json.dumps(yaml.safe_load(ENVIRONMENT)),
        "summary.json": json.dumps(summary),
        "metrics.jsonl": "".join(json.dumps(row) + "\n" for row in steps + evaluations),
        "samples.jsonl": "".join(json.dumps(row) + "\n" for row in samples),
    }
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name).write_text(text, encoding="utf-8")
    return directory


class Page(HTMLParser):
    """What a browser would make of a page: its tags, its visible text, and its exact values."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headline: dict[str, str | None] = {}
        self.values: dict[str, str | None] = {}
        self._parts: list[str] = []
        self._style = False
        self.feed(source)
        self.text = re.sub(r"\s+", " ", " ".join(self._parts))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        self._style = tag == "style"
        for key, found in (("data-key", self.headline), ("data-summary", self.values)):
            if tag == "data" and key in attributes:
                found[str(attributes[key])] = attributes["value"]

    def handle_endtag(self, tag: str) -> None:
        self._style = False

    def handle_data(self, data: str) -> None:
        if not self._style:
            self._parts.append(data)


def page_of(directory: Path) -> Page:
    return Page(write_report(directory).read_text(encoding="utf-8"))


def state_of(directory: Path, promise: str) -> str:
    return next(state for name, _, state in promises(read_run(directory)) if name.startswith(promise))


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


@pytest.mark.parametrize(("factor", "words"), [(0.4, "Lengths collapsed"), (2.0, "Lengths exploded")])
def test_lengths_that_run_away_are_warned_of(tmp_path: Path, factor: float, words: str) -> None:
    rows = [row | {"length_mean": 50.0 if row["version"] < 20 else 50 * factor} for row in evaluation_rows()]
    assert words in " ".join(warnings(read_run(build_run(tmp_path, evaluations=rows))))


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
