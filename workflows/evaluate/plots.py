"""The figures of an evaluation, in the style of a run's report; each one inline SVG element."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from workflows.drawing import BLUE, COLOURS, MUTED, ORANGE, STYLE, VERMILLION, finish, panels, svg

PANELS = {"proxy": (BLUE, "o", "the scorers"), "gold": (ORANGE, "s", "the gold scorers")}
"""How each panel's figures are drawn."""
Summary = Mapping[str, Any]


def figures(summary: Summary) -> dict[str, str]:
    """All figures that these results give, by name."""
    with matplotlib.rc_context(STYLE):
        drawn = {
            "win_rates": _win_rates(summary),
            "best_of_n": _best_of_n(summary),
            "over_optimisation": _over_optimisation(summary),
        }
    return {name: image for name, image in drawn.items() if image is not None}


def _win_rates(summary: Summary) -> str | None:
    names = [name for name in summary["policies"] if name != summary["against"]]
    kinds = {
        "proxy_win_rate": (BLUE, "o", "as judged"),
        "length_controlled": (VERMILLION, "D", "at equal length"),
        "gold_win_rate": (ORANGE, "s", "by the gold scorers"),
    }
    figure, (ax,) = panels(1, height=1.3 + 0.55 * len(names))
    for offset, (kind, (colour, marker, label)) in zip((0.2, 0.0, -0.2), kinds.items(), strict=True):
        found = [(place, row) for place, name in enumerate(names) if (row := summary["policies"][name].get(kind))]
        if found:
            _bars(ax, [row for _, row in found], [-place + offset for place, _ in found], colour, marker, label)
    ax.axvline(0.5, color=MUTED, linestyle=":", linewidth=1.2)
    finish(ax, f"Win rate against {summary['against']}", "win rate, 95% interval", "")
    ax.set_yticks([-place for place in range(len(names))], names)
    ax.set_ylim(-len(names) + 0.5, 0.6)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return svg(figure, "win_rates", "Win rate of each policy with its interval, as judged and at equal length")


def _bars(
    ax: Axes, rows: Sequence[Mapping[str, float]], places: Sequence[float], colour: str, marker: str, label: str
) -> None:
    means = np.array([row["mean"] for row in rows])
    spread = np.array([[row["mean"] - row["low"], row["high"] - row["mean"]] for row in rows]).clip(min=0.0).T
    ax.errorbar(
        means, places, xerr=spread, color=colour, marker=marker, markersize=5, linestyle="", capsize=3, label=label
    )


def _best_of_n(summary: Summary) -> str | None:
    curves = {name: row["best_of_n"] for name, row in summary["policies"].items() if len(row["best_of_n"]) > 1}
    if not curves:
        return None
    columns = min(len(curves), 3)
    rows = -(-len(curves) // columns)
    figure, axes = panels(columns, rows, height=3.2 * rows, sharey=True)
    for ax, (name, curve) in zip(axes, curves.items(), strict=False):
        n = [point["n"] for point in curve]
        for panel, (colour, marker, label) in PANELS.items():
            if panel in curve[0]:
                _band(ax, n, [point[panel] for point in curve], colour, marker, label)
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_locator(FixedLocator(n))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xticklabels([str(value) for value in n])
        ax.axhline(0.5, color=MUTED, linestyle=":", linewidth=1.2)
        finish(ax, f"Best of n of {name}", "n", "win rate")
    for ax in axes[len(curves) :]:
        ax.set_axis_off()
    return svg(figure, "best_of_n", "Win rate of the answer that the scorers like best among n, by scorers and by gold")


def _over_optimisation(summary: Summary) -> str | None:
    """Policies of one run in the order of their versions; x is where the KL says they are."""
    versions = summary["versions_of_run"]
    points = [
        (version, float(np.sqrt(max(row["likelihood"]["kl"]["mean"], 0.0))), row)
        for name, version in versions.items()
        if version and "likelihood" in (row := summary["policies"][name])
    ]
    if not points:
        return None
    points.sort(key=lambda point: point[0])
    distances = [0.0, *(distance for _, distance, _ in points)]
    start = {"mean": 0.5, "low": 0.5, "high": 0.5}
    figure, (by_distance, by_version) = panels(2, height=3.5, sharey=True)
    for ax, x in ((by_distance, distances), (by_version, [0.0, *(float(version) for version, _, _ in points)])):
        for panel, (colour, marker, label) in PANELS.items():
            if f"{panel}_win_rate" in points[0][2]:
                _band(ax, x, [start, *(row[f"{panel}_win_rate"] for _, _, row in points)], colour, marker, label)
        ax.axhline(0.5, color=MUTED, linestyle=":", linewidth=1.2)
    for (version, _, row), distance in zip(points, distances[1:], strict=True):
        mean = row["proxy_win_rate"]["mean"]
        by_distance.annotate(
            f"version {version}", (distance, mean), xytext=(4, 6), textcoords="offset points", color=MUTED, fontsize=8
        )
    finish(by_distance, "Win rate against distance", "square root of the KL to the start, nats", "win rate")
    finish(by_version, "The same by version", "version", "win rate")
    by_version.tick_params(labelleft=True)
    return svg(figure, "over_optimisation", "Win rate by scorers and gold scorers against the square root of the KL")


def _band(
    ax: Axes, x: Sequence[float], rows: Sequence[Mapping[str, float]], colour: str, marker: str, label: str
) -> None:
    order = np.argsort(x, kind="stable")
    places = np.array(x)[order]
    mean, low, high = (np.array([row[key] for row in rows])[order] for key in ("mean", "low", "high"))
    ax.fill_between(places, low, high, color=colour, alpha=0.14, linewidth=0)
    ax.plot(places, mean, color=colour, marker=marker, markersize=4.5, label=label)


def heat(value: float, reach: float = 0.3) -> str:
    """Background of a table cell: blue above 1/2, orange below, white at 1/2."""
    red, green, blue = (int(COLOURS[0 if value >= 0.5 else 1][i : i + 2], 16) for i in (1, 3, 5))
    strength = min(abs(value - 0.5) / reach, 1.0) * 0.45
    return f"rgba({red}, {green}, {blue}, {strength:.2f})"
