"""The figures of the run report, each one inline SVG element, and the reading of values that they need.

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
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
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
    """One pair of axes over the version, with its lines of (key of metrics.jsonl, colour, label).

    Example: `Panel("Loss", "loss", [("loss", BLUE, "")])`
    """

    title: str
    unit: str
    lines: Sequence[tuple[str, str, str]]
    from_zero: bool = False


_KL = [("kl", BLUE, "k1 estimate"), ("kl_k3", ORANGE, "k3 estimate")]
_LOGPROBS = [("chosen_logprob", BLUE, "chosen"), ("rejected_logprob", VERMILLION, "rejected")]
_TOKENS = [
    ("generated_tokens_per_second", BLUE, "generated"),
    ("learner_tokens_per_second", ORANGE, "trained"),
]
DRIFT = (
    Panel("KL to the reference", "nats per completion", _KL),
    Panel("Entropy", "nats per token", [("entropy", GREEN, "")], from_zero=True),
)
PAIRS = (
    Panel("Margin, chosen over rejected", "margin (beta h)", [("margin", BLUE, "")]),
    Panel("Accuracy", "share of pairs with h > 0", [("accuracy", GREEN, "")]),
    Panel("Log-probabilities", "nats per completion", _LOGPROBS),
)
OPTIMISER = (
    Panel("Loss", "loss", [("loss", BLUE, "")]),
    Panel("Gradient norm", "norm, before clipping", [("gradient_norm", PURPLE, "")], from_zero=True),
    Panel("Learning rate", "learning rate", [("learning_rate", GREEN, "")], from_zero=True),
)
THROUGHPUT = (
    Panel("Completions", "completions per second", [("completions_per_second", BLUE, "")], from_zero=True),
    Panel("Tokens", "tokens per second", _TOKENS, from_zero=True),
)


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


def _line(ax: Axes, x: Array, y: Array, colour: str, label: str = "", style: str = "-") -> None:
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


def _from_zero(ax: Axes) -> None:
    """Let the y axis of a panel with data begin at 0, with room above the largest value."""
    if ax.has_data() and ax.dataLim.y1 > 0:
        ax.set_ylim(0, 1.08 * ax.dataLim.y1)


def panels(columns: int, rows: int = 1, height: float = 3.1, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure as wide as the page, `height` inches high, and its axes row by row."""
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.06, wspace=0.03)
    figure = Figure(figsize=(WIDTH, height), layout=layout)
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, [ax for row in axes for ax in row]


def _lines(name: str, description: str, steps: Rows, *shown: Panel) -> str | None:
    """One row of panels over the version, each with the quantities of metrics.jsonl that it names."""
    figure, axes = panels(len(shown))
    version = series(steps, "version")
    for ax, panel in zip(axes, shown, strict=True):
        for place, (key, colour, label) in enumerate(panel.lines):
            _line(ax, version, series(steps, key), colour, label, LINE_STYLES[place % len(LINE_STYLES)])
        if panel.from_zero:
            _from_zero(ax)
        finish(ax, panel.title, VERSION, panel.unit)
    return svg(figure, name, description)


def _win_rate(evaluations: Rows) -> str | None:
    figure, axes = panels(2, height=3.5, sharey=True)
    mean, low, high = (series(evaluations, f"win_rate.{part}") for part in ("mean", "low", "high"))
    for ax, key, label in ((axes[0], "seconds", SECONDS), (axes[1], "version", VERSION)):
        x = series(evaluations, key)
        if np.isfinite(mean + x).any():
            ax.fill_between(x, low, high, color=BLUE, alpha=0.16, linewidth=0, label="95% interval")
            ax.plot(x, mean, color=BLUE, marker="o", markersize=4.5, label="win rate")
            ax.axhline(0.7, color=VERMILLION, linestyle="--", linewidth=1.2, label="0.70")
            ax.axhline(0.5, color=MUTED, linestyle=":", linewidth=1.2, label="0.50, no change")
            bottom, top = np.nanmin(np.append(low, mean)), np.nanmax(np.append(high, mean))
            ax.set_ylim(max(0.0, min(0.4, bottom - 0.03)), min(1.0, max(0.9, top + 0.03)))
        finish(ax, f"Win rate against the {'clock' if key == 'seconds' else 'version'}", label, "win rate")
    axes[1].tick_params(labelleft=True)
    return svg(figure, "win_rate", "Win rate against the start, over seconds and over versions")


def _judges(evaluations: Rows) -> str | None:
    figure, axes = panels(2, height=2.9)
    version = series(evaluations, "version")
    names = {str(name) for row in evaluations for name in judges_of(row)}
    for place, name in enumerate(sorted(names)):
        values = series([judges_of(row) for row in evaluations], name)
        if np.isfinite(values).any():
            style, marker = LINE_STYLES[place % len(LINE_STYLES)], "osD^vP"[place % 6]
            axes[0].plot(
                version,
                values,
                color=COLOURS[place % 6],
                linestyle=style,
                marker=marker,
                markersize=4,
                label=name,
            )
    if axes[0].has_data():
        axes[0].axhline(0.5, color=MUTED, linestyle=":", linewidth=1.2)
    finish(axes[0], "Each judge alone", VERSION, "win rate by this judge")
    ties = series(evaluations, "ties")
    _line(axes[1], version, ties, PURPLE)
    if axes[1].has_data():
        axes[1].set_ylim(0, 1.03)
    finish(axes[1], "Ties of the panel", VERSION, "share of comparisons")
    return svg(figure, "judges", "Win rate by each judge alone, and share of ties, over versions")


def _scoring(steps: Rows) -> str | None:
    keys = dict.fromkeys(key for row in steps for key in row)
    shown = [Panel("Disagreement", "standard deviation of P", [("disagreement", PURPLE, "")], from_zero=True)]
    for prefix, title, unit in (
        ("reward/", "Rewards of trained completions", "mean, each in its own units"),
        ("weight/", "Weights of the objectives", "weight"),
    ):
        names = [key.removeprefix(prefix) for key in keys if key.startswith(prefix)]
        shown += [Panel(title, unit, [(prefix + n, COLOURS[i % 6], n) for i, n in enumerate(names)])] if names else []
    return _lines("scoring", "Disagreement of the panel, rewards and their weights, over versions", steps, *shown)


def _lengths(steps: Rows, evaluations: Rows) -> str | None:
    figure, axes = panels(2)
    _line(axes[0], series(steps, "version"), series(steps, "length_mean"), BLUE, "trained completions")
    held_out = series(evaluations, "length_mean")
    if np.isfinite(held_out).any():
        x = series(evaluations, "version")
        axes[0].plot(x, held_out, color=ORANGE, linestyle="--", marker="o", markersize=4, label="held-out prompts")
    _from_zero(axes[0])
    finish(axes[0], "Length of completions", VERSION, "tokens, mean")
    _line(axes[1], series(steps, "version"), series(steps, "truncated_share"), VERMILLION)
    if axes[1].has_data():
        axes[1].set_ylim(0, 1.03)
    finish(axes[1], "Completions cut off at the length limit", VERSION, "share of completions")
    return svg(figure, "lengths", "Mean length of completions and share cut off, over versions")


def _planes(steps: Rows) -> str | None:
    figure, axes = panels(1, 4, height=6.4, sharex=True)
    seconds = thin(series(steps, "seconds"))
    for ax, name, colour in zip(axes, ("rollout", "scoring", "learner"), (BLUE, GREEN, ORANGE), strict=False):
        busy = 1 - np.clip(thin(series(steps, f"idle_{name}")), 0.0, 1.0)
        if np.isfinite(busy + seconds).any():
            ax.fill_between(seconds, 0, busy, step="pre", color=colour, alpha=0.8, linewidth=0, label="busy")
            ax.fill_between(seconds, busy, 1, step="pre", color="#dfe4ea", linewidth=0, label="idle")
            ax.set_ylim(0, 1)
            ax.set_xlim(0, float(np.nanmax(seconds)))
        finish(ax, f"{name.capitalize()} plane", "", "share of time")
    _line(
        axes[3],
        series(steps, "seconds"),
        series(steps, "overlap_efficiency"),
        INK,
        "busier of rollout and learner",
    )
    if axes[3].has_data():
        axes[3].set_ylim(0, 1.1)
    finish(axes[3], "Overlap efficiency", SECONDS, "share of time")
    for ax in axes:
        if ax.has_data():
            ax.set_yticks([0, 0.5, 1])
    return svg(figure, "planes", "Busy and idle share of each plane, and overlap efficiency, over time")


def _staleness(steps: Rows, summary: Mapping[str, Any]) -> str | None:
    figure, (counts, over_time) = panels(2)
    histogram = pick(summary, "staleness.histogram")
    pairs = histogram.items() if isinstance(histogram, Mapping) else ()
    known = {key_number(key) or 0.0: number(count) or 0.0 for key, count in pairs if key_number(key) is not None}
    bound = number(pick(summary, "staleness.bound"))
    if known:
        counts.bar(list(known), list(known.values()), width=0.7, color=BLUE)
        for key, count in known.items():
            counts.text(key, count, f"{count:,.0f}", ha="center", va="bottom", fontsize=8.5, color=INK)
        counts.margins(y=0.12)
        counts.grid(axis="x", visible=False)
        counts.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if bound is not None:
            counts.axvline(bound + 0.5, color=VERMILLION, linestyle="--", linewidth=1.2, label=f"bound: {bound:g}")
            counts.set_xlim(-0.7, max(bound, *known) + 0.9)
    finish(counts, "Staleness of trained groups", "staleness (versions)", "groups")
    version = series(steps, "version")
    _line(over_time, version, series(steps, "staleness_mean"), BLUE, "mean of the step")
    _line(over_time, version, series(steps, "staleness_max"), ORANGE, "largest of the step", "--")
    if over_time.has_data() and bound is not None:
        over_time.axhline(bound, color=VERMILLION, linestyle=":", linewidth=1.4, label=f"bound: {bound:g}")
        over_time.set_ylim(bottom=-0.05 * max(bound, 1.0), top=1.1 * max(bound, 1.0))
    finish(over_time, "Staleness over the run", VERSION, "staleness (versions)")
    return svg(figure, "staleness", "Histogram of staleness, and staleness over versions")


def _publication(steps: Rows) -> str | None:
    figure, axes = panels(2)
    names = ("version", "publication_seconds", "exposed_publication_seconds")
    version, total, exposed = (thin(series(steps, name)) for name in names)
    if np.isfinite(total + version).any():
        gaps = np.diff(version)
        width = 0.85 * (float(np.nanmedian(gaps)) if np.isfinite(gaps).any() else 1.0)
        axes[0].bar(version, total, width=width, color=SKY, label="hidden behind other work")
        axes[0].bar(version, np.fmin(exposed, total), width=width, color=VERMILLION, label="exposed")
    finish(axes[0], "Publication of weights", VERSION, "seconds")
    _line(axes[1], version, thin(series(steps, "mismatch_kl")), PURPLE)
    _from_zero(axes[1])
    finish(axes[1], "Mismatch of engine and learner", VERSION, "nats per token")
    return svg(
        figure,
        "publication",
        "Seconds of each publication, and mismatch of engine and learner, over versions",
    )


def figures(steps: Rows, evaluations: Rows, summary: Mapping[str, Any]) -> dict[str, str | None]:
    """All figures of a report by name, as SVG elements; None for one of which nothing was measured.

    `steps` and `evaluations` are the lines of metrics.jsonl of each kind, in the order of their versions.
    """
    with matplotlib.rc_context(STYLE):
        return {
            "win_rate": _win_rate(evaluations),
            "judges": _judges(evaluations),
            "scoring": _scoring(steps),
            "lengths": _lengths(steps, evaluations),
            "drift": _lines("drift", "KL to the reference and entropy, over versions", steps, *DRIFT),
            "pairs": _lines("pairs", "Margins, accuracy and log-probabilities, over versions", steps, *PAIRS),
            "optimiser": _lines("optimiser", "Loss, gradient and learning rate, over versions", steps, *OPTIMISER),
            "planes": _planes(steps),
            "staleness": _staleness(steps, summary),
            "publication": _publication(steps),
            "throughput": _lines("throughput", "Completions and tokens a second, over versions", steps, *THROUGHPUT),
        }
