"""The figures of a verification, in the style of a run's report; each one inline SVG element."""

from collections.abc import Callable, Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from algorithms.games import FloatArray, create, regularised_equilibrium
from algorithms.games.registry import SOLVED
from workflows.drawing import COLOURS, INK, LINE_STYLES, MUTED, STYLE, finish, panels, svg
from workflows.verify.measurement import Curve, curve, exact_policies
from workflows.verify.runs import Outcome
from workflows.verify.settings import Setting
from workflows.verify.summary import Outcomes, best_win_rate

SMALLEST = 1e-12
"""Gaps below it are drawn there: the exact updates reach rounding."""
BELOW = 0.5
"""Of the smallest gap of a run, where the plot ends."""
CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(0.75)]])
"""Where the three answers stand in the triangle."""


def figures(outcomes: Outcomes, settings: Mapping[str, Setting], exact: bool) -> dict[str, str]:
    """All figures that these runs give, by name."""
    with matplotlib.rc_context(STYLE):
        drawn = {
            "gap": _gap(outcomes, settings if exact else {}),
            "mean_policy": _mean_policy(outcomes),
            "win_rate": _win_rate(outcomes),
            "simplex": _simplex(outcomes) if _actions(outcomes) == 3 else None,
        }
    return {name: image for name, image in drawn.items() if image is not None}


def _gap(outcomes: Outcomes, exact: Mapping[str, Setting]) -> str | None:
    figure, axes = panels(2, height=4.6, sharey=True)
    for ax, x_of in zip(axes, (_updates, _seconds), strict=True):
        _log(ax)
        for place, found in enumerate(outcomes.values()):
            _curve(ax, place, x_of(found), [outcome.curve.gap for outcome in found])
        ax.axhline(_start_gap(outcomes), color=MUTED, linestyle=":", linewidth=1.0)
    axes[0].set_ylim(bottom=BELOW * min(outcome.curve.gap.min() for found in outcomes.values() for outcome in found))
    for place, name in enumerate(outcomes):
        if name in exact and exact[name].exact is not None:
            gaps = [_exact_curve(exact[name], outcome).gap for outcome in outcomes[name]]
            line = np.maximum(np.mean(gaps, axis=0), SMALLEST)
            axes[0].plot(_updates(outcomes[name])[1:], line[1:], color=_colour(place), linewidth=0.9, linestyle=":")
    finish(axes[0], "Distance to the equilibrium, by updates", "updates of the policy", "duality gap, regularised")
    finish(axes[1], "The same by the clock", "seconds since the first group", "duality gap, regularised")
    _legend(figure, outcomes)
    return svg(figure, "gap", "Regularised duality gap of every objective against updates and against seconds")


def _mean_policy(outcomes: Outcomes) -> str | None:
    figure, axes = panels(2, height=4.4, sharey=True)
    picks: tuple[Callable[[Curve], FloatArray], ...] = (
        lambda found: found.unregularised_gap,
        lambda found: found.average_unregularised_gap,
    )
    for ax, pick in zip(axes, picks, strict=True):
        _log(ax)
        for place, found in enumerate(outcomes.values()):
            _curve(ax, place, _updates(found), [pick(outcome.curve) for outcome in found])
    finish(axes[0], "Without the pull: the policy", "updates of the policy", "duality gap, unregularised")
    finish(
        axes[1], "Without the pull: mean of all policies so far", "updates of the policy", "duality gap, unregularised"
    )
    _legend(figure, outcomes)
    return svg(figure, "mean_policy", "Unregularised duality gap of the last policy and of the mean of all policies")


def _win_rate(outcomes: Outcomes) -> str | None:
    figure, axes = panels(2, height=4.2, sharey=True)
    for ax, x_of in zip(axes, (_versions, _seconds), strict=True):
        for place, found in enumerate(outcomes.values()):
            _curve(ax, place, x_of(found), [outcome.curve.win_rate for outcome in found], first=0)
        best = np.mean([best_win_rate(outcome) for found in outcomes.values() for outcome in found])
        ax.axhline(float(best), color=MUTED, linestyle=":", linewidth=1.2)
    finish(axes[0], "Win rate over the reference", "version (batches trained)", "win rate")
    finish(axes[1], "The same by the clock", "seconds since the first group", "win rate")
    _legend(figure, outcomes)
    return svg(figure, "win_rate", "Win rate over the reference against versions and against seconds")


def _simplex(outcomes: Outcomes) -> str | None:
    columns = min(len(outcomes), 3)
    rows = -(-len(outcomes) // columns)
    figure, axes = panels(columns, rows, height=3.6 * rows)
    for ax, name in zip(axes, outcomes, strict=False):
        outcome = outcomes[name][0]
        ax.plot(*np.append(CORNERS, CORNERS[:1], axis=0).T, color=MUTED, linewidth=1.0)
        for context, game in enumerate(outcome.match.games):
            path = np.exp(outcome.policies[:, context]) @ CORNERS
            centre = np.exp(regularised_equilibrium(game).log_policy) @ CORNERS
            colour = COLOURS[context % len(COLOURS)]
            ax.plot(*path.T, color=colour, linewidth=1.0, alpha=0.8)
            ax.plot(*path[0], color=colour, marker="o", markersize=4)
            ax.plot(*centre, color=colour, marker="*", markersize=11, markeredgecolor=INK, markeredgewidth=0.6)
        for corner, (x, y) in enumerate(CORNERS):
            ax.text(x, y + (0.05 if corner == 2 else -0.09), f"answer {corner}", ha="center", color=MUTED, fontsize=8)
        ax.set_aspect("equal")
        ax.set_axis_off()
        ax.set_title(name)
    for ax in axes[len(outcomes) :]:
        ax.set_axis_off()
    return svg(figure, "simplex", "Paths of the policies on the triangle of three answers")


def _exact_curve(setting: Setting, outcome: Outcome) -> Curve:
    """The exact update at the measured step, as many times as the run updated."""
    assert setting.exact is not None
    step = None if setting.exact in SOLVED else max(outcome.eta, 1e-3)
    updates = len(outcome.updates) - 1
    return curve(outcome.match, exact_policies(outcome.match, create(setting.exact, step_size=step), updates))


def _curve(ax: Axes, place: int, x: FloatArray, seeds: Sequence[FloatArray], first: int = 1) -> None:
    """Mean over seeds as a line, their range as a band; a logarithmic axis has no place for update 0."""
    values = np.maximum(np.stack(seeds), SMALLEST)[:, first:]
    colour, style = _colour(place), LINE_STYLES[place // len(COLOURS) % len(LINE_STYLES)]
    ax.fill_between(x[first:], values.min(axis=0), values.max(axis=0), color=colour, alpha=0.13, linewidth=0)
    ax.plot(x[first:], values.mean(axis=0), color=colour, linestyle=style)


def _legend(figure: Figure, outcomes: Outcomes) -> None:
    """One legend for all panels, below them."""
    lines = figure.axes[0].get_lines()[: len(outcomes)]
    figure.legend(lines, list(outcomes), loc="outside lower center", ncols=6)


def _log(ax: Axes) -> None:
    """Both axes logarithmic, with plain numbers at their ticks."""
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())


def _colour(place: int) -> str:
    return COLOURS[place % len(COLOURS)]


def _updates(found: Sequence[Outcome]) -> FloatArray:
    return found[0].updates


def _versions(found: Sequence[Outcome]) -> FloatArray:
    return found[0].versions


def _seconds(found: Sequence[Outcome]) -> FloatArray:
    return np.asarray(np.mean([outcome.seconds for outcome in found], axis=0), dtype=np.float64)


def _start_gap(outcomes: Outcomes) -> float:
    return float(np.mean([outcome.curve.gap[0] for found in outcomes.values() for outcome in found]))


def _actions(outcomes: Outcomes) -> int:
    return len(next(iter(outcomes.values()))[0].match.answers)
