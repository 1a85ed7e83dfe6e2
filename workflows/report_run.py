"""What a run directory holds, read for a report: a file that is missing, short or broken is a named problem."""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from workflows.drawing import number, pick

Row = Mapping[str, Any]
ABSENT = "not measured"


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
    diagnostics: Sequence[Row]  # measurements of checkpoints; see workflows.diagnostics
    alarms: Sequence[Row]  # rules that were broken; see the same
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


def _optional_lines(directory: Path, name: str, problems: list[str]) -> list[Row]:
    return _load_lines(directory, name, problems) if (directory / name).exists() else []


def _count_events(directory: Path) -> Counter[str]:
    """How often each event happened; read line by line, for the file grows with every group."""
    try:
        with (directory / "events.jsonl").open(encoding="utf-8", errors="replace") as lines:
            return Counter(found[1] for line in lines if (found := re.search(r'"event": ?"(\w+)"', line)))
    except OSError:
        return Counter()


def _by_version(rows: Sequence[Row], kind: str | None = None) -> list[Row]:
    """The rows of one kind, if there are several, by version; of a version trained again after a resume, the last."""
    last = {number(row.get("version")): row for row in rows if row.get("kind") == kind}
    return [last[version] for version in sorted(version for version in last if version is not None)]


def _from_metrics(steps: Sequence[Row], evaluations: Sequence[Row]) -> dict[str, Any]:
    """The figures of a summary that metrics.jsonl can give too."""
    found: dict[str, Any] = {"kl": steps[-1].get("kl")} if steps else {}
    if evaluations:
        reached = [row for row in evaluations if (number(pick(row, "win_rate.mean")) or 0.0) >= 0.7]
        found |= {name: evaluations[-1].get(name) for name in ("win_rate", "gold_win_rate")}
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
        diagnostics=_by_version(_optional_lines(directory, "diagnostics.jsonl", problems)),
        alarms=_optional_lines(directory, "alarms.jsonl", problems),
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


def known(rows: Sequence[Row], path: str) -> list[float]:
    """The finite values under `path`, in order."""
    return [value for row in rows if (value := number(pick(row, path))) is not None]
