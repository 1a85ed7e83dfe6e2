"""The best setting of a group of trials, with its uncertainty: a quadratic in logarithms around the best trial, or one
through all trials of several groups that share their curvature.

A law of best settings stands on optima, and an optimum is only as good as its grid: one on the edge, or without
curvature, is marked, so that a law can leave it out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import block_diag
from scipy.stats import t as student

from algorithms.preference import BoolArray, FloatArray

NEIGHBOURS = 3
"""Values of the grid on each side of the best one that the quadratic is fitted to, where nothing else is asked."""
MOST_VAGUE = 100.0
"""Factor between the ends of an optimum's interval from which it says nothing."""
NEEDED = 2
"""Values on each side of the best one without which it counts as lying on the edge."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Optimum:
    """Where the outcome of a group is best.

    `setting` [k], the optimum; `low`, `high` [k], its 95% interval; `best`, the outcome there as the quadratic has it;
    `coefficients` of that quadratic in logarithms around `centre` [k] (see `at`); `used` [n], the trials that it was
    fitted to. `fault` says why the optimum can't be trusted, empty where it can.
    """

    setting: FloatArray
    low: FloatArray
    high: FloatArray
    best: float
    centre: FloatArray
    coefficients: FloatArray
    used: BoolArray
    fault: str

    def at(self, settings: FloatArray) -> FloatArray:
        """[m] outcomes that the quadratic has at `settings` [m, k]."""
        return np.asarray(_columns(np.log(settings) - np.log(self.centre)) @ self.coefficients)


def local_optimum(settings: FloatArray, outcomes: FloatArray, maximise: bool, neighbours: int = NEIGHBOURS) -> Optimum:
    """The optimum of `outcomes` [n] over positive `settings` [n, k], several trials of one setting allowed.

    Least squares on all terms up to second order in log setting, over the trials within `neighbours` grid values of the
    best (by the mean of equal settings) on every axis: few where the outcome is no quadratic far from its optimum. The
    interval is the delta method's with Student's t. Where there is no quadratic, or no peak of it, the setting is that
    of the best trial and the interval everything.
    Methods: optimum by local quadratic, Li et al. 2503.04715; two values needed on each side.
    """
    distinct, inverse = np.unique(settings, axis=0, return_inverse=True)
    means = np.array([outcomes[inverse == place].mean() for place in range(len(distinct))])
    centre = distinct[int(np.argmax(means) if maximise else np.argmin(means))]
    used: BoolArray = np.ones(len(settings), dtype=np.bool_)
    fault = _beyond(settings, centre, "the best value")
    for axis in range(settings.shape[1]):
        values = np.unique(settings[:, axis])
        at = int(np.searchsorted(values, centre[axis]))
        near = values[max(0, at - neighbours) : at + neighbours + 1]
        used &= np.isin(settings[:, axis], near)
    offsets = np.log(settings[used]) - np.log(centre)
    columns = _columns(offsets)
    degrees = len(columns) - columns.shape[1]
    if degrees < 1 or np.linalg.matrix_rank(columns) < columns.shape[1]:
        return _unknown(centre, means, maximise, used, fault or "too few trials around it for a quadratic")
    coefficients: FloatArray = np.linalg.pinv(columns) @ outcomes[used]
    variance = ((outcomes[used] - columns @ coefficients) ** 2).sum() / degrees
    covariance = variance * np.linalg.inv(columns.T @ columns)
    found = _vertex(centre, coefficients, covariance, degrees, maximise, used, fault)
    if found is None:
        return _unknown(centre, means, maximise, used, fault or "the outcomes around it have no peak")
    if not fault and (np.abs(np.log(found.setting / centre)) > np.abs(offsets).max(axis=0)).any():
        return replace(found, fault="the quadratic has its peak outside the trials that it was fitted to")
    return found


def shared_optima(groups: Sequence[tuple[FloatArray, FloatArray]], maximise: bool) -> list[Optimum]:
    """The optima of groups, (settings [n, k], outcomes [n]) each, that bend alike and differ in place and height.

    Least squares over all trials of all groups: a height and slopes for each group, one set of second-order terms for
    all. Where the noise hides how a single group bends, the others tell it. Outcomes that fall off a cliff beyond the
    best setting pull all optima to the other side, and by the same factor, so that an exponent between them stays.
    Two values needed on each side of an optimum.
    """
    axes = groups[0][0].shape[1]
    centres = [np.exp(np.log(settings).mean(axis=0)) for settings, _ in groups]
    blocks = [_columns(np.log(settings) - np.log(at)) for (settings, _), at in zip(groups, centres, strict=True)]
    own = 1 + axes
    columns = np.hstack([block_diag(*(block[:, :own] for block in blocks)), np.vstack([b[:, own:] for b in blocks])])
    outcomes = np.concatenate([values for _, values in groups])
    degrees = len(columns) - columns.shape[1]
    if degrees < 1 or np.linalg.matrix_rank(columns) < columns.shape[1]:
        return [_best(*group, maximise, "too few trials for a quadratic that all groups share") for group in groups]
    coefficients: FloatArray = np.linalg.pinv(columns) @ outcomes
    covariance = ((outcomes - columns @ coefficients) ** 2).sum() / degrees * np.linalg.inv(columns.T @ columns)
    shared, optima = np.arange(own * len(groups), columns.shape[1]), []
    for place, (settings, values) in enumerate(groups):
        picked = np.concatenate([np.arange(own * place, own * (place + 1)), shared])
        part = covariance[np.ix_(picked, picked)]
        used: BoolArray = np.ones(len(settings), dtype=np.bool_)
        found = _vertex(centres[place], coefficients[picked], part, degrees, maximise, used, "")
        if found is None:
            optima.append(_best(settings, values, maximise, "the outcomes of all groups together have no peak"))
        else:
            optima.append(replace(found, fault=_beyond(settings, found.setting, "its optimum") or found.fault))
    return optima


def _vertex(
    centre: FloatArray,
    coefficients: FloatArray,
    covariance: FloatArray,
    degrees: int,
    maximise: bool,
    used: BoolArray,
    fault: str,
) -> Optimum | None:
    """Where a quadratic around `centre` [k] has its optimum, with the delta method's interval; none without a peak."""
    slope, curvature = _slope_and_curvature(coefficients, len(centre))
    bends = np.linalg.eigvalsh(curvature)
    if (bends.max() >= 0.0) if maximise else (bends.min() <= 0.0):
        return None
    step: FloatArray = -np.linalg.inv(curvature) @ slope
    # At the optimum slope + curvature step = 0; a coefficient moves the left side by the slope of its column there.
    moves = np.linalg.inv(curvature) @ _column_slopes(step).T
    half = np.sqrt(np.diag(moves @ covariance @ moves.T)) * student.ppf(0.975, degrees)
    with np.errstate(over="ignore"):
        low, high = centre * np.exp(step - half), centre * np.exp(step + half)
    if not fault and (2.0 * half > np.log(MOST_VAGUE)).any():
        fault = f"the noise hides its optimum, which may be anywhere from {low[0]:.3g} to {high[0]:.3g}"
    return Optimum(
        setting=centre * np.exp(step),
        low=low,
        high=high,
        best=float((_columns(step[None]) @ coefficients)[0]),
        centre=centre,
        coefficients=coefficients,
        used=used,
        fault=fault,
    )


def _beyond(settings: FloatArray, best: FloatArray, what: str) -> str:
    """The fault of a best setting [k] with too few values of the grid beyond it, or none."""
    fault = ""
    for axis, value in enumerate(best):
        below, above = (
            len(np.unique(settings[side, axis])) for side in (settings[:, axis] < value, settings[:, axis] > value)
        )
        if min(below, above) < NEEDED:
            side = "smallest" if below < above else "largest"
            fault = f"{what}, {value:.4g}, has fewer than {NEEDED} beyond it on the side of the {side}"
    return fault


def _best(settings: FloatArray, outcomes: FloatArray, maximise: bool, fault: str) -> Optimum:
    """The best trial by itself."""
    centre = settings[int(np.argmax(outcomes) if maximise else np.argmin(outcomes))]
    return _unknown(centre, outcomes, maximise, np.ones(len(settings), dtype=np.bool_), fault)


def _unknown(centre: FloatArray, means: FloatArray, maximise: bool, used: BoolArray, fault: str) -> Optimum:
    count = len(centre)
    best = float(means.max() if maximise else means.min())
    return Optimum(
        setting=centre,
        low=np.zeros(count),
        high=np.full(count, np.inf),
        best=best,
        centre=centre,
        coefficients=np.concatenate([[best], np.zeros(count + count * (count + 1) // 2)]),
        used=used,
        fault=fault,
    )


def _columns(offsets: FloatArray) -> FloatArray:
    """[n, 1 + k + k (k + 1) / 2]: one, each offset, each product of two."""
    rows, columns = np.triu_indices(offsets.shape[1])
    return np.concatenate([np.ones((len(offsets), 1)), offsets, offsets[:, rows] * offsets[:, columns]], axis=1)


def _column_slopes(step: FloatArray) -> FloatArray:
    """[columns, k] derivatives of each column by the offset, at `step` [k]."""
    rows, columns = np.triu_indices(len(step))
    identity = np.eye(len(step))
    products = step[rows][:, None] * identity[columns] + step[columns][:, None] * identity[rows]
    return np.concatenate([np.zeros((1, len(step))), identity, products])


def _slope_and_curvature(coefficients: FloatArray, count: int) -> tuple[FloatArray, FloatArray]:
    """Gradient [k] and Hessian [k, k] of the quadratic at its centre."""
    curvature = np.zeros((count, count))
    curvature[np.triu_indices(count)] = coefficients[1 + count :]
    return coefficients[1 : 1 + count], curvature + curvature.T
