"""Runs that had gold scorers (`scoring.gold`), on one page: what they reached, by their own panel and by gold.

    python -m workflows.evaluate.over_optimisation "one member=runs/one-0" "one member=runs/one-1" mean=runs/mean-0 \\
        --output runs/gold/along

Runs under the same name are seeds of one setting. The distance is the square root of the KL to the start, from the
trained completions (k1, nats a completion, mean over the last versions). Leaves `over_optimisation.json` and `.png`,
and prints the table as Markdown.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console

from workflows.drawing import COLOURS, MUTED, STYLE, finish, panels
from workflows.evaluate.policies import EvaluationError
from workflows.report_run import Run, read_run

WINDOW = 4
"""Versions whose KL is averaged; a batch is small."""
RATES = {"proxy": "win_rate", "gold": "gold_win_rate"}

Point = dict[str, Any]
"""`version`, `kl`, and `proxy` and `gold`, each with `mean`, `low` and `high`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    arguments = parser().parse_args(argv)
    try:
        named = [text.rpartition("=") for text in arguments.runs]
        settings: dict[str, list[list[Point]]] = {}
        for name, _, folder in named:
            settings.setdefault(name or Path(folder).name, []).append(points_of(Path(folder)))
        found = {name: averaged(runs) for name, runs in settings.items()}
    except (EvaluationError, NotADirectoryError) as error:
        Console(stderr=True).print(f"{type(error).__name__}: {error}", style="red", highlight=False, markup=False)
        return 1
    output = Path(arguments.output)
    output.mkdir(parents=True, exist_ok=True)
    summary = {"runs": arguments.runs, "settings": found, "by_run": settings}
    (output / "over_optimisation.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    with matplotlib.rc_context({**STYLE, "figure.facecolor": "white"}):
        draw(found, settings).savefig(output / "over_optimisation.png", dpi=120)
    print("\n".join(table(found)))
    return 0


def points_of(folder: Path) -> list[Point]:
    """The evaluations of a run, from its start on.

    Raises: `EvaluationError` for a run that gold scorers did not judge.
    """
    run = read_run(folder)
    judged = [row for row in run.evaluations if "gold_win_rate" in row and row["version"] > 0]
    if not judged:
        raise EvaluationError(
            f"the run in {folder} has no evaluation by gold scorers; name them in scoring.gold, and ask for "
            "evaluations with evaluation.every"
        )
    even = {"mean": 0.5, "low": 0.5, "high": 0.5}
    return [{"version": 0, "kl": 0.0, "proxy": even, "gold": even}, *(_point(run, row) for row in judged)]


def _point(run: Run, row: Mapping[str, Any]) -> Point:
    version = int(row["version"])
    kl = [step["kl"] for step in run.steps if version - WINDOW < step["version"] <= version]
    rates = {panel: {end: row[key][end] for end in ("mean", "low", "high")} for panel, key in RATES.items()}
    return {"version": version, "kl": max(float(np.mean(kl)), 0.0), **rates}


def averaged(runs: Sequence[Sequence[Point]]) -> list[Point]:
    """Means over the seeds of a setting, at the versions that all of them reached.

    The ends of an interval are the means of the seeds' ends: right where their errors go together, for all answer the
    same prompts, and too wide as far as they do not.
    """
    versions = sorted(set.intersection(*({point["version"] for point in run} for run in runs)))
    rows = [[point for run in runs for point in run if point["version"] == version] for version in versions]
    return [
        {
            "version": version,
            "kl": float(np.mean([point["kl"] for point in row])),
            **{
                panel: {end: float(np.mean([point[panel][end] for point in row])) for end in ("mean", "low", "high")}
                for panel in RATES
            },
        }
        for version, row in zip(versions, rows, strict=True)
    ]


def draw(found: Mapping[str, Sequence[Point]], settings: Mapping[str, Sequence[Sequence[Point]]]) -> Figure:
    """Both win rates against the distance, and gold by version; seeds pale."""
    figure, (by_distance, by_version) = panels(2, height=4.0, sharey=True)
    for (name, points), colour in zip(found.items(), COLOURS, strict=False):
        distance = [float(np.sqrt(point["kl"])) for point in points]
        _line(by_distance, distance, points, "proxy", color=colour, linestyle="--")
        for ax, x in ((by_distance, distance), (by_version, _versions(points))):
            _line(ax, x, points, "gold", color=colour, marker="o", markersize=3.5, label=name)
        low, high = ([point["gold"][end] for point in points] for end in ("low", "high"))
        by_version.fill_between(_versions(points), low, high, color=colour, alpha=0.08, linewidth=0)
        for run in settings[name] if len(settings[name]) > 1 else ():
            _line(by_version, _versions(run), run, "gold", color=colour, alpha=0.35, linewidth=0.8)
    finish(by_distance, "Gold (solid) and own panel (dashed)", "square root of the KL to the start, nats", "win rate")
    finish(by_version, "Gold by version, seeds pale", "version", "win rate")
    by_version.tick_params(labelleft=True)
    for ax in (by_distance, by_version):
        ax.axhline(0.5, color=MUTED, linestyle=":", linewidth=1.2)
        ax.set_title(ax.get_title("left"), pad=22)
    return figure


def _versions(points: Sequence[Point]) -> list[float]:
    return [float(point["version"]) for point in points]


def _line(ax: Axes, x: Sequence[float], points: Sequence[Point], panel: str, **style: Any) -> None:
    ax.plot(x, [point[panel]["mean"] for point in points], **style)


def table(found: Mapping[str, Sequence[Point]]) -> list[str]:
    """Where gold was highest, and the end, one setting a row, as Markdown."""
    lines = [
        "| trained on | gold at its highest | KL there, nats | gold at the end | own panel at the end | KL, nats |"
    ]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for name, points in found.items():
        best, last = max(points, key=lambda point: float(point["gold"]["mean"])), points[-1]
        cells = [
            name,
            f"{_rate(best['gold'])}, version {best['version']}",
            f"{best['kl']:.1f}",
            f"{_rate(last['gold'])}, version {last['version']}",
            _rate(last["proxy"]),
            f"{last['kl']:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _rate(rate: Mapping[str, float]) -> str:
    return f"{rate['mean']:.3f} ({rate['low']:.3f} to {rate['high']:.3f})"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m workflows.evaluate.over_optimisation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("runs", nargs="+", metavar="[NAME=]RUN", help="run directories; seeds share a name")
    result.add_argument("--output", required=True, help="folder of what is written")
    return result


if __name__ == "__main__":
    sys.exit(main())
