"""A metric against a swept setting, for one or several sweeps, as a picture and as a Markdown table.

    python -m workflows.sweep.compare runs/sweeps/staleness-*/trials.parquet --setting eta --by objective.name \\
        --output runs/staleness.png

Trials that differ in nothing but the seed are dots of one place and their mean is the line. Only finished trials count.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from workflows.drawing import COLOURS, LINE_STYLES, STYLE, finish, log_axis, panels
from workflows.scaling_law.table import Table, TableError, read_tables

WIDE = 10.0
"""Largest value of an axis that begins at 0 from which equal factors are equally far apart."""

Curve = dict[float, list[float]]
"""Outcomes of the seeds by setting, settings in order."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    arguments = parser().parse_args(argv)
    try:
        found = curves(read_tables(arguments.tables), arguments.setting, arguments.metric, arguments.by)
    except TableError as error:
        Console(stderr=True).print(f"{type(error).__name__}: {error}", style="red", highlight=False, markup=False)
        return 1
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({**STYLE, "figure.facecolor": "white"}):
        draw(found, arguments.setting, arguments.metric, arguments.by).savefig(arguments.output, dpi=120)
    print("\n".join(listing(found, arguments.setting)))
    return 0


def curves(table: Table, setting: str, metric: str, by: str | None) -> dict[str, Curve]:
    """The outcomes by value of `by` (one curve without it) and by setting.

    Raises: `TableError` for a column that is missing or holds something else than numbers.
    """
    labels = [label[0] for label in table.labels([by])] if by else [metric] * len(table)
    found: dict[str, Curve] = {}
    rows = zip(labels, table.numbers(setting).tolist(), table.numbers(metric).tolist(), strict=True)
    for label, place, outcome in sorted(rows):
        found.setdefault(str(label), {}).setdefault(place, []).append(outcome)
    return found


def draw(found: Mapping[str, Curve], setting: str, metric: str, by: str | None) -> Figure:
    """A dot for each trial and one line a curve through their means, named in a legend if there is a column `by`."""
    figure, (ax,) = panels(1, height=3.6)
    for number, (name, curve) in enumerate(found.items()):
        colour, style = COLOURS[number % len(COLOURS)], LINE_STYLES[number % len(LINE_STYLES)]
        means = [float(np.mean(outcomes)) for outcomes in curve.values()]
        ax.plot(list(curve), means, color=colour, linestyle=style, label=name if by else None)
        for place, outcomes in curve.items():
            ax.plot([place] * len(outcomes), outcomes, "o", color=colour, markersize=4, alpha=0.6)
    places = sorted({place for curve in found.values() for place in curve})
    if places[0] > 0.0:
        log_axis(ax.xaxis, np.array(places))
    elif places[0] == 0.0 and places[-1] > WIDE:
        # Linear up to the first value above 0, which has no logarithm, and equal factors equally far apart beyond.
        ax.set_xscale("symlog", linthresh=places[1])
        ax.set_xticks(places, [f"{place:g}" for place in places])
        ax.minorticks_off()
    finish(ax, f"{metric} against {setting}" + (f" by {by}" if by else "") + ", a dot for each trial", setting, metric)
    ax.set_title(ax.get_title("left"), pad=22)
    return figure


def listing(found: Mapping[str, Curve], setting: str) -> list[str]:
    """Markdown: a row for each setting, a column for each curve; mean, and the range over several trials."""
    lines = [f"| {setting} | {' | '.join(found)} |", f"| --- |{' --- |' * len(found)}"]
    for place in sorted({place for curve in found.values() for place in curve}):
        cells = [_cell(curve.get(place, [])) for curve in found.values()]
        lines.append(f"| {place:.3g} | {' | '.join(cells)} |")
    return lines


def _cell(outcomes: Sequence[float]) -> str:
    if not outcomes:
        return ""
    mean = f"{np.mean(outcomes):.3f}"
    return mean if len(outcomes) == 1 else f"{mean} ({min(outcomes):.3f} to {max(outcomes):.3f})"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m workflows.sweep.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("tables", nargs="+", type=Path, metavar="TABLE", help="CSV or Parquet")
    result.add_argument("--setting", required=True, help="the column that was varied, such as eta or learning_rate")
    result.add_argument("--metric", default="win_rate", help="default: %(default)s")
    result.add_argument("--by", help="the column whose values are one line each, such as objective.name")
    result.add_argument("--output", type=Path, required=True, help="the picture, .png or .svg")
    return result


if __name__ == "__main__":
    sys.exit(main())
