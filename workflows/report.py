"""The report of a run: `report.html`, one page for somebody who was not there.

Contract: every figure on the page is read from the run directory, and each one of summary.json stands there
with its exact value in a `<data value=...>` element. A file that is missing, short or broken is named on the
page and is never an error. A promise counts as kept only where the run measured it. The page loads and runs
nothing: texts are escaped, figures are inline, and a content policy forbids the rest.

    python -m workflows.report runs/demo
"""

import argparse
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from workflows.report_plots import ends, figures, judges_of, key_number, number, pick

Row = Mapping[str, Any]
State = Literal["kept", "broken", "not measured", "not applicable"]
FINISHED = {"complete", "completed", "done", "finished"}
ABSENT = "not measured"
# Rules of thumb for a reader's attention, not promises of the system.
KL_HIGH, KL_MODERATE = 40.0, 15.0  # nats per completion
LENGTH_CHANGE, ENTROPY_LEFT = 0.4, 0.4  # shares of the value at the start
REJECTED_SHARE, DROPPED_SHARE, TRUNCATED_SHARE, CLIPPED_SHARE = 0.05, 0.5, 0.3, 0.9
MISMATCH_KL = 0.01  # nats per token
EXPOSED_SHARE = 0.05  # of the seconds of a step
NEAR_BOUND = 0.9  # mean staleness over its bound
WIN_RATE_FALL = 0.08  # below the best evaluation


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What a run directory holds; `problems` says what is missing. Example: `read_run(Path("runs/demo"))`."""

    name: str
    config_text: str
    config: Any
    environment: Row
    steps: Sequence[Row]
    evaluations: Sequence[Row]
    samples: Sequence[Row]
    measured: Row  # summary.json as it is
    summary: Row  # the same, completed from metrics.jsonl where a key is missing
    events: Mapping[str, int]  # how often each event of events.jsonl happened
    problems: Sequence[str]

    def get(self, path: str) -> float | None:
        """The figure under a dotted path of the summary."""
        return number(pick(self.summary, path))

    def counts(self, path: str) -> Mapping[str, Any]:
        """The table under a dotted path of the summary; empty where there is none."""
        table = pick(self.summary, path)
        return table if isinstance(table, Mapping) else {}


def _load(directory: Path, name: str, parse: Callable[[str], Any], problems: list[str]) -> Any:
    try:
        return parse((directory / name).read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError:
        problems.append(f"{name} is missing.")
    except (OSError, ValueError, yaml.YAMLError) as error:
        problems.append(f"{name} cannot be read: {error}")
    return None


def _load_object(directory: Path, name: str, problems: list[str]) -> Row:
    value = _load(directory, name, json.loads, problems)
    return value if isinstance(value, dict) else {}


def _load_lines(directory: Path, name: str, problems: list[str]) -> list[Row]:
    rows: list[Row] = []
    lines = _load(directory, name, str.splitlines, problems) or []
    for place, line in enumerate(lines, start=1):
        try:
            row = json.loads(line) if line.strip() else {}
        except ValueError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            problems.append(f"{name}: line {place} of {len(lines)} is unreadable and left out.")
    return rows


def _count_events(directory: Path) -> Counter[str]:
    """How often each event happened; read line by line, for the file grows with every group."""
    try:
        with (directory / "events.jsonl").open(encoding="utf-8", errors="replace") as lines:
            return Counter(found[1] for line in lines if (found := re.search(r'"event": ?"(\w+)"', line)))
    except OSError:
        return Counter()


def _by_version(rows: Sequence[Row], kind: str) -> list[Row]:
    """The rows of one kind by version; of a version trained again after a resume, the last."""
    last = {number(row.get("version")): row for row in rows if row.get("kind") == kind}
    return [last[version] for version in sorted(version for version in last if version is not None)]


def _from_metrics(steps: Sequence[Row], evaluations: Sequence[Row]) -> dict[str, Any]:
    """The figures of a summary that metrics.jsonl can give too."""
    found: dict[str, Any] = {"kl": steps[-1].get("kl")} if steps else {}
    if evaluations:
        reached = [row for row in evaluations if (number(pick(row, "win_rate.mean")) or 0.0) >= 0.7]
        found["win_rate"] = evaluations[-1].get("win_rate")
        found["seconds_to_win_rate_0_70"] = reached[0].get("seconds") if reached else None
    if steps or evaluations:
        found["wall_seconds"] = max(number(row.get("seconds")) or 0.0 for row in (*steps, *evaluations))
    return found


def read_run(directory: Path) -> Run:
    """What `directory` holds. Raises NotADirectoryError when there is no such directory."""
    if not directory.is_dir():
        raise NotADirectoryError(f"{directory} is not a run directory: there is no such folder.")
    problems: list[str] = []
    metrics = _load_lines(directory, "metrics.jsonl", problems)
    steps, evaluations = _by_version(metrics, "step"), _by_version(metrics, "evaluation")
    measured = _load_object(directory, "summary.json", problems)
    run = Run(
        name=directory.resolve().name,
        config_text=_load(directory, "config.yaml", str, problems) or "",
        config=_load(directory, "config.yaml", yaml.safe_load, []),
        environment=_load_object(directory, "environment.json", problems),
        steps=steps,
        evaluations=evaluations,
        samples=_load_lines(directory, "samples.jsonl", problems),
        measured=measured,
        summary=_from_metrics(steps, evaluations) | dict(measured),
        events=_count_events(directory),
        problems=problems,
    )
    if not measured:
        problems.append("Without a summary, the figures here are those of the last lines of metrics.jsonl.")
    if not steps:
        problems.append("No step was recorded: nothing was trained, the policy is still the start.")
    if not evaluations:
        problems.append("No evaluation was recorded: there is no win rate over time.")
    return run


def readable(value: Any, kind: str = "") -> str:
    """A figure as a person reads it: three digits, or as `kind` says: "seconds", "share" or "rate"."""
    if (size := number(value)) is None:
        return str(value) if isinstance(value, str | list) else ABSENT
    if kind == "seconds" and size >= 60:
        minutes, seconds = divmod(round(size), 60)
        hours = f"{minutes // 60} h {minutes % 60:02d} min"
        return hours if minutes >= 60 else f"{minutes} min {seconds:02d} s"
    if kind in ("share", "rate"):
        return f"{size:.1%}" if kind == "share" else f"{size:.2f}"
    whole = size == int(size) or abs(size) >= 1000
    text = f"{size:,.0f}" if whole else f"{size:.3g}"
    return f"{text} s" if kind == "seconds" else text


def compact(value: Any) -> str:
    """A configuration value in one line."""
    if isinstance(value, Mapping):
        filled = {key: part for key, part in value.items() if part not in (None, {}, [])}
        return ", ".join(f"{str(key).replace('_', ' ')} {compact(part)}" for key, part in filled.items())
    if isinstance(value, list | tuple):
        return ", ".join(text for part in value if (text := compact(part)))
    missing = value is None or (isinstance(value, float) and number(value) is None)
    return "" if missing else str(value)


def find(tree: Any, *names: str) -> Any:
    """The shallowest value of the first of `names` that nested mappings have; None where there is none."""
    for name in names:
        level = [tree]
        while level:
            mappings = [node for node in level if isinstance(node, Mapping)]
            for node in mappings:
                if node.get(name) is not None:
                    return node[name]
            level = [part for node in mappings for part in node.values()]
    return None


def length_ends(run: Run) -> tuple[float, float] | None:
    """Mean tokens at start and end: of evaluations if there is one of version 0, else of the trained."""
    evaluated = bool(run.evaluations) and number(run.evaluations[0]["version"]) == 0
    return (ends(run.evaluations, "length_mean", 1) if evaluated else None) or ends(run.steps, "length_mean")


def verdict(run: Run) -> tuple[str, str]:
    """(tone, headline): whether it worked, from the interval of the win rate alone."""
    low, high = run.get("win_rate.low"), run.get("win_rate.high")
    if low is None or high is None:
        return "unknown", "Not known: no win rate with an interval was measured"
    if low > 0.5:
        return "good", "It worked: the trained policy is preferred to the start"
    if high < 0.5:
        return "bad", "It got worse: the start is preferred to the trained policy"
    return "unknown", "Not shown: the win rate cannot be told from one half"


def warnings(run: Run) -> list[str]:
    """What a reader should look at twice, one sentence each."""
    zero = (0.0, 0.0)
    kl, mismatch, mean = run.get("kl") or 0.0, run.get("mismatch.kl") or 0.0, run.get("win_rate.mean")
    short, long = length_ends(run) or zero
    fresh, left = ends(run.steps, "entropy") or zero
    rejected = (run.get("ledger.rejected") or 0.0) / (run.get("ledger.admitted") or 1.0)
    pairs, dropped = (sum(known(run.steps, key)) for key in ("pairs", "dropped_pairs"))
    lost = dropped / ((pairs + dropped) or 1.0)
    cut, clipped = ((ends(run.steps, key) or zero)[1] for key in ("truncated_share", "clipped"))
    bound, stale = run.get("staleness.bound") or 0.0, run.get("staleness.mean") or 0.0
    exposed, best = exposed_share(run) or 0.0, max([0.0, *known(run.evaluations, "win_rate.mean")])
    judges = judges_of(run.evaluations[-1]) if run.evaluations else {}
    against = [str(name) for name in judges if (rate := number(judges[name])) is not None and rate < 0.45]
    broken = sum(number(row.get("loss")) is None for row in run.steps)
    lengths = f"from {short:.0f} to {long:.0f} tokens a completion"
    fell = mean is not None and mean < best - WIN_RATE_FALL
    checks = [
        *(
            (state == "broken", f"Broken promise. {name.partition(':')[0]}: {text}.")
            for name, text, state in promises(run)
        ),
        (kl >= KL_HIGH, f"KL is very high ({kl:.3g} nats): the win rate alone flatters, read the samples."),
        (long < (1 - LENGTH_CHANGE) * short, f"Lengths collapsed: {lengths}."),
        (long > (1 + LENGTH_CHANGE) * short > 0, f"Lengths exploded: {lengths}."),
        (left < ENTROPY_LEFT * fresh, f"Entropy collapsed: from {fresh:.3g} to {left:.3g} nats a token."),
        (rejected > REJECTED_SHARE, f"Many groups were rejected: {rejected:.0%} of those admitted."),
        (lost > DROPPED_SHARE, f"{lost:.0%} of the pairs were dropped as ties or identical texts."),
        (cut > TRUNCATED_SHARE, f"{cut:.0%} of the last completions were cut off at the length limit."),
        (clipped > CLIPPED_SHARE, f"{clipped:.0%} of the last gradients were clipped to the norm allowed."),
        (0 < NEAR_BOUND * bound <= stale <= bound, f"Staleness is at its bound, {stale:.3g} of {bound:g}."),
        (abs(mismatch) > MISMATCH_KL, f"Engine and learner disagree by {mismatch:.3g} nats a token."),
        (exposed > EXPOSED_SHARE, f"The learner waits for publications: {exposed:.0%} of a step."),
        (fell, f"The win rate fell: {best:.2f} at its best, {mean or 0.0:.2f} at the end."),
        (bool(against), f"The gain goes against {', '.join(against)}: below 0.45 when asked alone."),
        (broken > 0, f"The loss of {broken} of {len(run.steps)} steps is missing or not finite."),
    ]
    return [text for holds, text in checks if holds]


def known(rows: Sequence[Row], path: str) -> list[float]:
    """The finite values under `path`, in order."""
    return [value for row in rows if (value := number(pick(row, path))) is not None]


def exposed_share(run: Run) -> float | None:
    """Exposed seconds of a median publication over the median seconds of a step; None where not measured."""
    exposed, gaps = run.get("publication.exposed_seconds_median"), np.diff(known(run.steps, "seconds"))
    step = float(np.median(gaps)) if len(gaps) else 0.0
    return exposed / step if exposed is not None and step > 0 else None


def _ledger(run: Run) -> tuple[str, State]:
    counts = [run.get(f"ledger.{key}") for key in ("admitted", "trained", "rejected", "in_flight")]
    admitted, trained, rejected, in_flight = (count or 0.0 for count in counts)
    if None in counts:
        return "No complete ledger is on record", "not measured"
    parts = f"{trained:,.0f} trained + {rejected:,.0f} rejected + {in_flight:,.0f} in flight"
    if admitted != trained + rejected + in_flight:
        return f"{admitted:,.0f} admitted, but {parts}", "broken"
    named = sum(number(count) or 0.0 for count in run.counts("rejections").values())
    if "rejections" in run.summary and named != rejected:
        return f"{rejected:,.0f} rejected, but {named:,.0f} with a reason", "broken"
    return f"{admitted:,.0f} admitted = {parts}", "kept"


def _staleness(run: Run) -> tuple[str, State]:
    bound, histogram = run.get("staleness.bound"), run.counts("staleness.histogram")
    seen = [key_number(age) for age in histogram if number(histogram[age])]
    largest = max([age for age in (run.get("staleness.max"), *seen) if age is not None], default=None)
    if bound is None or largest is None:
        return "No staleness is on record", "not measured"
    discarded = [str(reason) for reason in run.counts("rejections") if "stale" in str(reason)]
    ages = f"Largest staleness {largest:g}, bound {bound:g}"
    text = f"{ages}; discarded for age: {', '.join(discarded) or 'none'}"
    return text, "kept" if largest <= bound and not discarded else "broken"


def _publication(run: Run) -> tuple[str, State]:
    count, largest = run.get("publication.count"), run.get("mismatch.max_abs_logprob")
    text = f"{readable(count)} publications; at most {readable(largest)} nats between engine and learner"
    if count == 0 and len(run.steps) > 1:
        return "Weights were trained and none was published", "broken"
    return text, "kept" if count and largest is not None else "not measured"


def _stillness(run: Run) -> tuple[str, State]:
    rates = known(run.steps, "learning_rate")
    if not rates or max(rates) > 0:
        return f"Largest learning rate {readable(max(rates, default=None))}", "not applicable"
    low, high, kl = (run.get(path) for path in ("win_rate.low", "win_rate.high", "kl"))
    if low is None or high is None or kl is None:
        return "Learning rate 0, without win rate and KL", "not measured"
    text = f"Win rate within {low:.3f} to {high:.3f}, KL {readable(kl)}"
    return text, "kept" if low <= 0.5 <= high and abs(kl) <= MISMATCH_KL else "broken"


def _ended(run: Run) -> tuple[str, State]:
    status, seconds = compact(run.summary.get("status")), readable(run.get("wall_seconds"), "seconds")
    over = status.lower() not in {"", "running", "started"}
    return f"Status {status or 'not recorded'} after {seconds}", "kept" if over else "not measured"


def _survival(run: Run) -> tuple[str, State]:
    deaths = {name: run.events.get(name, 0) for name in ("restarted", "learner_restarted", "resumed", "reissued")}
    if not any(deaths.values()):
        return "Nothing died in this run", "not measured"
    text = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in deaths.items() if count)
    return f"Events: {text}; the ledger is the proof", _ledger(run)[1]


def _overlap(run: Run) -> tuple[str, State]:
    keys = ("overlap_efficiency", "idle.rollout", "idle.scoring", "idle.learner", "staleness.max")
    complete = all(run.get(key) is not None for key in (*keys, "publication.exposed_seconds_median"))
    count, total = len(known(run.steps, "overlap_efficiency")), len(run.steps)
    text = f"Overlap efficiency {readable(run.get(keys[0]), 'rate')}, measured at {count} of {total} steps"
    return text, "kept" if complete else "not measured"


def promises(run: Run) -> list[tuple[str, str, State]]:
    """(promise, what was measured, state), from the figures of this run alone."""
    synchronous: State = "not measured" if run.get("staleness.bound") == 0 else "not applicable"
    return [
        ("Exactly once: a group is trained, rejected with a reason, or in flight", *_ledger(run)),
        ("Staleness is bounded by pacing, never by discarding", *_staleness(run)),
        ("With a bound of 0 the loop is the synchronous one", "Left to the test suite", synchronous),
        ("A publication is proved, not assumed", *_publication(run)),
        ("A learning rate of 0 changes nothing", *_stillness(run)),
        ("Nothing hangs: every wait has a deadline", *_ended(run)),
        ("Any actor may die, and the ledger still balances", *_survival(run)),
        ("Overlap is measured against its bound", *_overlap(run)),
    ]


def render(run: Run) -> str:
    """The page."""

    def show(path: str, kind: str = "") -> Markup:
        """A figure of the summary for a reader, with its exact value for a program."""
        value = pick(run.summary, path)
        exact = json.dumps(value) if number(value) is not None else ""
        return Markup('<data data-key="{}" value="{}">{}</data>').format(path, exact, readable(value, kind))

    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    of_values = (readable, compact, find, number, judges_of)
    of_run = (verdict, warnings, promises, length_ends, exposed_share)
    environment.globals.update({function.__name__: function for function in (*of_values, *of_run)})
    drawn = figures(run.steps, run.evaluations, run.summary)
    return environment.get_template("report_template.html").render(
        run=run,
        show=show,
        kl_limits=(KL_MODERATE, KL_HIGH),
        finished=str(run.summary.get("status")).lower() in FINISHED,
        figures={name: Markup(svg) for name, svg in drawn.items() if svg is not None},
    )


def write_report(run_directory: Path) -> Path:
    """Writes `report.html` into `run_directory`, whole or not at all, and returns its path.

    Raises NotADirectoryError when there is no such directory, OSError when it cannot be written to.
    """
    page, path = render(read_run(run_directory)), run_directory / "report.html"
    partial = path.with_suffix(".html.partial")
    partial.write_text(page, encoding="utf-8", errors="replace")
    os.replace(partial, path)
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m workflows.report", description="Write report.html.")
    parser.add_argument("run_directory", type=Path, help="for example runs/demo")
    try:
        print(write_report(parser.parse_args(arguments).run_directory))
    except OSError as error:
        print(f"No report: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
