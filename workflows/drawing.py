"""How every figure of the reports looks, and the reading of values that they need.

Contract: a figure is drawn from whatever was measured. A value that is missing, NaN or infinite leaves a gap,
a panel without any value says so, a figure without any is None; nothing raises. The SVG carries no script, no
address, and no id that another figure of the page could carry. Equal input gives equal text.
"""

import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

Rows = Sequence[Mapping[str, Any]]
Array = NDArray[np.float64]

# Okabe and Ito's palette: told apart under the common forms of colour blindness.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#B3588A", "#56B4E9")
BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY = COLOURS
LINE_STYLES = ["-", "--", "-.", ":"]
INK, MUTED, RULE = "#1d2733", "#5c6875", "#dfe4ea"
WIDTH = 11.0  # inches; the page is 1056 CSS pixels wide there, so that 9 pt reads as 12 px
MAX_POINTS = 600
WIDE = 5.0
"""Powers of e from which a logarithmic axis is labelled at powers of ten only."""
STYLE: Any = {
    **{"font.size": 9, "text.parse_math": False, "lines.linewidth": 1.8, "axes.titlecolor": INK},
    **{
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.axisbelow": True,
    },
    **{"axes.labelcolor": MUTED, "axes.edgecolor": "#aab4be", "xtick.color": MUTED, "ytick.color": MUTED},
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.facecolor": "none"},
    **{"axes.grid": True, "grid.color": RULE, "grid.linewidth": 0.7, "figure.facecolor": "none"},
    **{"legend.frameon": False, "legend.fontsize": 8.5, "legend.labelcolor": INK},
    **{"svg.fonttype": "none", "svg.hashsalt": "nashloop"},
}
VERSION, SECONDS = "version (optimiser steps)", "seconds since the run began"


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes over the version, with its lines of (key of a row, colour, label).

    Example: `Panel("Loss", "loss", [("loss", BLUE, "")])`
    """

    title: str
    unit: str
    lines: Sequence[tuple[str, str, str]]
    from_zero: bool = False


def number(value: Any) -> float | None:
    """`value` as a finite float (a bool counts as 0 or 1), else None."""
    if not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def pick(tree: Any, path: str) -> Any:
    """The value under a dotted `path` of nested mappings, None where a part of it is missing."""
    for part in path.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


def key_number(key: Any) -> float | None:
    """A histogram's key, which JSON keeps as text, as a number; None when it is none."""
    try:
        return number(float(key))
    except (TypeError, ValueError):
        return None


def judges_of(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The figures of a row's judges by name; empty where the row has none."""
    judges = row.get("judges")
    return judges if isinstance(judges, Mapping) else {}


def series(rows: Rows, path: str) -> Array:
    """[rows] values under the key or dotted `path`; NaN where a row has none."""
    values = [number(row[path] if path in row else pick(row, path)) for row in rows]
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def ends(rows: Rows, path: str, width: int = 5) -> tuple[float, float] | None:
    """Means of the first and of the last `width` known values under `path`; None with fewer than two."""
    values = series(rows, path)
    values = values[np.isfinite(values)]
    width = min(width, len(values) // 2)
    return (float(values[:width].mean()), float(values[-width:].mean())) if width else None


def thin(values: Array) -> Array:
    """Means over runs of neighbours, NaNs left out, so that a long run stays a small file."""
    size = math.ceil(len(values) / MAX_POINTS)
    if size <= 1:
        return values
    padded = np.pad(values, (0, -len(values) % size), constant_values=np.nan).reshape(-1, size)
    count = np.isfinite(padded).sum(axis=1)
    return np.where(count > 0, np.nansum(padded, axis=1) / np.maximum(count, 1), np.nan)


def running_mean(values: Array, window: int = 5) -> Array:
    """Centred mean over `window` neighbours, NaNs left out, shorter at both ends."""
    known = np.isfinite(values).astype(np.float64)
    total = np.convolve(np.nan_to_num(values), np.ones(window), mode="same")[: len(values)]
    count = np.convolve(known, np.ones(window), mode="same")[: len(values)]
    return np.where(known > 0, total / np.maximum(count, 1.0), np.nan)


def line(ax: Axes, x: Array, y: Array, colour: str, label: str = "", style: str = "-") -> None:
    """One quantity a step: pale as measured, and strong as its running mean where there are enough steps."""
    x, y = thin(x), thin(y)
    if not np.isfinite(y).any():
        return
    if len(y) < 10:
        ax.plot(x, y, color=colour, label=label or None, linestyle=style, marker="o", markersize=3.5)
        return
    ax.plot(x, y, color=colour, alpha=0.35, linewidth=0.9)
    ax.plot(x, running_mean(y), color=colour, label=label or None, linestyle=style)


def finish(ax: Axes, title: str, x_label: str, y_label: str) -> None:
    """Title, axis labels with units, a legend above the data, or the words "not recorded"."""
    ax.set_xlabel(x_label)
    ax.set_ylabel(y_label)
    if not ax.has_data():
        ax.text(0.5, 0.5, "not recorded", transform=ax.transAxes, ha="center", color=MUTED, style="italic")
        ax.set_xticks([])
        ax.set_yticks([])
    ax.set_title(title, pad=8)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="lower left", bbox_to_anchor=(-0.01, 0.985), ncols=4, borderaxespad=0.2, columnspacing=1.4)
    if ax.has_data() and ax.get_yscale() == "linear":
        ax.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
        ax.yaxis.set_major_formatter("{x:g}")
    if "version" in x_label and ax.get_xscale() == "linear":
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))


def svg(figure: Figure, name: str, description: str) -> str | None:
    """`figure` as one SVG element for an HTML page, None when no panel has data."""
    if not any(ax.has_data() for ax in figure.axes):
        return None
    if any(ax.get_legend() for ax in figure.axes):
        for ax in figure.axes:
            ax.set_title(ax.get_title("left"), pad=22)
    buffer = io.StringIO()
    nothing: dict[str, Any] = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text)
    # Matplotlib escapes < and > in texts, so that a match inside a tag is an attribute.
    text = re.sub(r'(<[^<>]*?\bid=")', rf"\g<1>{name}-", text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'xlink:href="#', f'xlink:href="#{name}-', text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    label = html.escape(description, quote=True)
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def from_zero(ax: Axes) -> None:
    """Let the y axis of a panel with data begin at 0, with room above the largest value."""
    if ax.has_data() and ax.dataLim.y1 > 0:
        ax.set_ylim(0, 1.08 * ax.dataLim.y1)


def span(values: Array) -> float:
    """Powers of e that positive values span; nothing for others."""
    return float(np.log(values.max() / values.min())) if values.min() > 0.0 else 0.0


def log_axis(axis: Axis, values: Array, wide: float = WIDE) -> None:
    """A logarithmic scale with plain numbers, where values span enough for one.

    From `wide` powers of e on it is labelled at powers of ten only.
    """
    if (found := span(values)) < 1.0:
        return
    scale = axis.axes.set_xscale if isinstance(axis, XAxis) else axis.axes.set_yscale
    scale("log")
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if found < wide else (1.0,), numticks=8))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def panels(columns: int, rows: int = 1, height: float = 3.1, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure as wide as the page, `height` inches high, and its axes row by row."""
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.06, wspace=0.03)
    figure = Figure(figsize=(WIDTH, height), layout=layout)
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, [ax for row in axes for ax in row]


def lines_of(name: str, description: str, steps: Rows, *shown: Panel, rows: int = 1) -> str | None:
    """Panels over the version, row by row, each with the quantities that it names."""
    figure, axes = panels(len(shown) // rows, rows, 3.1 * rows)
    version = series(steps, "version")
    for ax, panel in zip(axes, shown, strict=True):
        for place, (key, colour, label) in enumerate(panel.lines):
            line(ax, version, series(steps, key), colour, label, LINE_STYLES[place % len(LINE_STYLES)])
        if panel.from_zero:
            from_zero(ax)
        finish(ax, panel.title, VERSION, panel.unit)
    return svg(figure, name, description)
