"""The figures of a scaling law's report, each one inline SVG element, in the style of a run's report."""

from textwrap import fill

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from algorithms.preference import BoolArray, FloatArray
from algorithms.scaling.law import Factors
from workflows.drawing import (
    BLUE,
    COLOURS,
    INK,
    LINE_STYLES,
    MUTED,
    STYLE,
    VERMILLION,
    finish,
    log_axis,
    panels,
    span,
    svg,
)
from workflows.scaling_law.measurements import Group
from workflows.scaling_law.study import Study

MOST_PANELS, COLUMNS = 12, 4
TITLE_WIDTH = 28
"""Characters of a small panel's title that stand beside those of its neighbour."""
MOST_SERIES = 6
"""Levels, or runs, that a figure tells apart by colour."""
DENSE = 60
"""Measurements of one series from which points are small."""
FRAME = 10.0
"""Factor beyond the measurements at which an axis ends, however far an interval goes on."""
POINTS = 120
WIDE_SMALL = 2.5
"""Powers of e from which the logarithmic axis of a small panel is labelled at powers of ten only."""


def figures(study: Study, name: str) -> dict[str, str]:
    """All figures of a study by name; `name` keeps the ids of several studies on one page apart."""
    with matplotlib.rc_context(STYLE):
        drawn = {
            "surfaces": _surfaces(study, name) if study.measurements.groups else None,
            "law": _curves(study, name) if len(study.measurements.steps) else _law(study, name),
            "residuals": _residuals(study, name),
            "correlation": _correlation(study, name),
        }
    return {figure: image for figure, image in drawn.items() if image is not None}


def _surfaces(study: Study, name: str) -> str | None:
    """Metric against setting in every group, the quadratic, and the optimum with its interval."""
    groups = study.measurements.groups
    shown = [groups[place] for place in np.unique(np.linspace(0, len(groups) - 1, MOST_PANELS).astype(int))]
    rows = -(-len(shown) // COLUMNS)
    figure, axes = panels(min(COLUMNS, len(shown)), rows, height=2.4 * rows + 0.3)
    for ax, group in zip(axes, shown, strict=False):
        _surface(ax, group, study)
    for ax in axes[len(shown) :]:
        ax.set_axis_off()
    return svg(figure, f"{name}-surfaces", "Metric against the tuned setting in every group, with the optimum")


def _surface(ax: Axes, group: Group, study: Study) -> None:
    best, axis, values = group.optimum, group.axis, group.settings[:, group.axis]
    far = values[~best.used]
    ax.plot(far, group.outcomes[~best.used], "o", color="#aab4be", markersize=3.5)
    ax.plot(values[best.used], group.outcomes[best.used], "o", color=BLUE, markersize=3.5)
    if not best.fault:
        line = np.geomspace(values[best.used].min(), values[best.used].max(), POINTS)
        ax.plot(line, group.along(line), color=BLUE, linewidth=1.2)
        ax.axvspan(
            max(best.low[axis], values.min()), min(best.high[axis], values.max()), color=BLUE, alpha=0.14, linewidth=0
        )
        ax.axvline(best.setting[axis], color=BLUE, linewidth=1.0)
        factors = {factor: np.array([group.factors[factor]]) for factor in study.fit.law.factors}
        predicted = study.fit.predict(factors, extrapolate=True).value[0]
        ax.axvline(predicted, color=VERMILLION, linewidth=1.2, linestyle="--")
    setting = f"{study.setting} + {study.shift:g}" if study.shift else str(study.setting)
    log_axis(ax.xaxis, values, WIDE_SMALL)
    title = fill(group.label + (" (left out)" if best.fault else ""), TITLE_WIDTH)
    finish(ax, title, setting.split(".")[-1], study.metric)
    ax.set_title(title, pad=8, fontsize=8.5)


def _law(study: Study, name: str) -> str | None:
    """Outcome against the factor with the widest range, one line for each level of the others."""
    law, measured = study.fit.law, study.measurements
    x = max(law.factors, key=lambda factor: span(measured.factors[factor]))
    others = [factor for factor in law.factors if factor != x]
    series = _series(measured.factors, others, len(measured.outcome))
    figure, axes = panels(1, height=4.6)
    ax, held = axes[0], _held(study)
    for place, (label, rows) in enumerate(series.items()):
        colour = COLOURS[place % len(COLOURS)]
        line = _line(measured.factors[x], x)
        values = {factor: np.full(len(line), measured.factors[factor][rows].mean()) for factor in others}
        band = study.fit.predict({x: line, **values}, extrapolate=True)
        ax.fill_between(line, band.low, band.high, color=colour, alpha=0.13, linewidth=0)
        ax.plot(line, band.value, color=colour, label=label or "law, 95% band")
        ax.plot(measured.factors[x][rows & ~held], measured.outcome[rows & ~held], "o", color=colour, markersize=5)
        ax.plot(
            measured.factors[x][rows & held],
            measured.outcome[rows & held],
            "o",
            color=colour,
            markersize=8,
            fillstyle="none",
        )
    if study.check:
        _predicted(ax, measured.factors[x][held], study)
    log_axis(ax.xaxis, measured.factors[x])
    if law.logarithmic:
        log_axis(ax.yaxis, measured.outcome)
        low, high = ax.get_ylim()
        ax.set_ylim(max(low, measured.outcome.min() / FRAME), min(high, measured.outcome.max() * FRAME))
    finish(ax, law.formula, x, law.outcome)
    ax.legend(loc="lower left", bbox_to_anchor=(-0.01, 0.985), ncols=MOST_SERIES + 1, columnspacing=1.2)
    return svg(figure, f"{name}-law", "The law with its band, the measurements, and what was held out")


def _predicted(ax: Axes, x: FloatArray, study: Study) -> None:
    """What the law that had not seen the held-out rows says about them."""
    assert study.check is not None
    found = study.check.prediction
    ends = np.stack([found.value - found.low, found.high - found.value])
    label = "held out (rings), predicted"
    ax.errorbar(x, found.value, ends, fmt="x", color=INK, capsize=3, linewidth=1.1, markersize=6, label=label)


def _curves(study: Study, name: str) -> str | None:
    """Loss curves: dots measured, lines of the law that was fitted without the held-out runs."""
    measured, held = study.measurements, _held(study)
    runs = list(dict.fromkeys(measured.labels))
    fit = study.check.fit if study.check else study.fit
    figure, axes = panels(2, height=4.6, sharey=True)
    for ax, title, chosen in ((axes[0], "Fitted", ~held), (axes[1], "Held out", held)):
        shown = [run for run in runs if any(chosen[_rows(measured.labels, run)])]
        for place, run in enumerate(shown):
            rows = _rows(measured.labels, run)
            factors = {factor: values[rows] for factor, values in measured.factors.items()}
            colour = COLOURS[place % len(COLOURS)]
            ax.plot(measured.steps[rows], measured.outcome[rows], ".", color=colour, markersize=2.5, alpha=0.6)
            predicted, style = fit.law.predict(fit.parameters, factors), LINE_STYLES[place // len(COLOURS) % 4]
            ax.plot(measured.steps[rows], predicted, style, color=colour, linewidth=1.2, label=run)
        finish(ax, title, "step", study.metric)
        if ax.get_legend():
            ax.legend(loc="upper right", ncols=1, frameon=False)
    axes[0].set_ylim(*np.quantile(measured.outcome, [0.0, 0.99]) * np.array([0.99, 1.01]))
    return svg(figure, f"{name}-law", "Measured loss curves and those of the law")


def _residuals(study: Study, name: str) -> str | None:
    fit, measured = study.fit, study.measurements
    figure, axes = panels(2, height=3.3, sharey=True)
    unit = "log(law / measured)" if fit.law.logarithmic else "law - measured"
    predicted = measured.outcome * np.exp(fit.residuals) if fit.law.logarithmic else measured.outcome + fit.residuals
    size = 2.5 if len(predicted) > DENSE else 5
    axes[0].plot(predicted, fit.residuals, "o", color=BLUE, markersize=size, alpha=0.7)
    if fit.law.logarithmic:
        log_axis(axes[0].xaxis, predicted)
    labels = list(dict.fromkeys(measured.labels))
    places = np.array([labels.index(label) for label in measured.labels], dtype=np.float64)
    axes[1].plot(places, fit.residuals, "o", color=BLUE, markersize=size, alpha=0.7)
    if len(labels) <= MOST_PANELS:
        axes[1].set_xticks(range(len(labels)), labels, rotation=25, ha="right", fontsize=7.5)
    for ax in axes:
        ax.axhline(0.0, color=MUTED, linewidth=1.0)
        for sign in (-1.0, 1.0):
            ax.axhline(sign * fit.delta, color=VERMILLION, linestyle=":", linewidth=1.2)
    finish(axes[0], "Residuals against the law", fit.law.outcome, unit)
    finish(axes[1], "Residuals by group", "" if len(labels) <= MOST_PANELS else "group", unit)
    return svg(figure, f"{name}-residuals", "Residuals against predicted values and by group")


def _correlation(study: Study, name: str) -> str | None:
    """Correlation of the parameters, and the two that are told apart worst, as resampling moves them."""
    fit = study.fit
    names = [parameter for parameter, free in zip(fit.law.names, fit.free, strict=True) if free]
    if len(names) < 2:
        return None
    figure, axes = panels(2, height=3.6)
    axes[0].imshow(fit.correlation, cmap="RdBu", vmin=-1.0, vmax=1.0)
    for row in range(len(names)):
        for column in range(len(names)):
            value = fit.correlation[row, column]
            colour = "white" if abs(value) > 0.6 else INK
            axes[0].text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8.5, color=colour)
    axes[0].set_xticks(range(len(names)), names, rotation=25, ha="right")
    axes[0].set_yticks(range(len(names)), names)
    axes[0].grid(visible=False)
    axes[0].set_title("Correlation of the parameters")
    apart = np.abs(fit.correlation - np.eye(len(names)))
    first, second = np.unravel_index(int(np.argmax(apart)), apart.shape)
    if len(fit.resampled):
        columns = [fit.law.names.index(names[int(place)]) for place in (first, second)]
        axes[1].plot(*fit.resampled[:, columns].T, "o", color=BLUE, markersize=2.5, alpha=0.4, label="resampled")
        axes[1].plot(*fit.parameters[columns], "o", color=VERMILLION, markersize=6, label="all groups")
        for column, axis in zip(columns, (axes[1].xaxis, axes[1].yaxis), strict=True):
            if fit.law.positive[column]:
                log_axis(axis, fit.resampled[:, column])
    finish(axes[1], "The pair known least apart", names[int(first)], names[int(second)])
    return svg(figure, f"{name}-correlation", "Correlation of the parameters, and resampled values of one pair")


def _held(study: Study) -> BoolArray:
    return study.check.held_out if study.check else np.zeros(len(study.measurements.outcome), dtype=np.bool_)


def _rows(labels: list[str], run: str) -> BoolArray:
    return np.array([label == run for label in labels])


def _series(factors: Factors, others: list[str], count: int) -> dict[str, BoolArray]:
    """Rows by the levels of the other factors; of many levels a few, evenly spaced."""
    if not others:
        return {"": np.ones(count, dtype=np.bool_)}
    written = [", ".join(f"{name} {factors[name][row]:.3g}" for name in others) for row in range(count)]
    order = sorted(dict.fromkeys(written), key=lambda text: factors[others[0]][written.index(text)])
    kept = [order[place] for place in np.unique(np.linspace(0, len(order) - 1, MOST_SERIES).astype(int))]
    return {text: np.array([row == text for row in written]) for text in kept}


def _line(values: FloatArray, name: str) -> FloatArray:
    """Where to draw a law along a factor: whole numbers where it only takes those and begins at 0."""
    if values.min() > 0.0:
        return np.geomspace(values.min(), values.max(), POINTS)
    return np.arange(values.min(), values.max() + 1.0)
