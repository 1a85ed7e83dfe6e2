"""Fitting a law robustly, with errors that say when it can't be: Huber's loss, many starts, exact derivatives.

Positive parameters are fitted as logarithms, and residuals are those of logarithms where the law is logarithmic, so an
interval never contains what is impossible. A fit is refused
where measurements are too few or tell some parameter nothing; it never extrapolates far without being asked to.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.stats import t as student

from algorithms.preference import BoolArray, FloatArray
from algorithms.scaling.law import Factors, Law
from algorithms.scaling.problem import Problem, gradient, inner_of, outer_of, result_of

MOST_EXTRAPOLATION = 10.0
"""Times beyond the fitted range that a factor may go unasked."""
TINY = 1e-300
SAME_SOLUTION, NEARLY_AS_GOOD = 1e-2, 1.05


class FitError(ValueError):
    """Measurements that a law can't be fitted to, or a law that can't be asked that; says why and what to do."""


class ExtrapolationError(FitError):
    """A question too far outside the range that the law was fitted on."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prediction:
    """[n] values of a law with a confidence interval each."""

    value: FloatArray
    low: FloatArray
    high: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fit:
    """A law and what was found for it from n measurements.

    `parameters` [P]; `free` [P], which were fitted; `covariance` [F, F] of the free ones (of their logarithms where
    positive), Huber's, for independent measurements; `residuals` [n]; `deviation`, their standard deviation; `delta`,
    where Huber's loss turns linear; `box`, smallest and largest value of each factor that is a number of 0 or more;
    `rival` [P], another minimum nearly as good, if a start led to one.
    """

    law: Law
    parameters: FloatArray
    free: tuple[bool, ...]
    covariance: FloatArray
    residuals: FloatArray
    deviation: float
    delta: float
    box: dict[str, tuple[float, float]]
    rival: FloatArray | None = None
    resampled: FloatArray = field(default_factory=lambda: np.zeros((0, 0)))
    """[R, P] parameters of fits to resampled groups (`bootstrap`); they widen every interval."""

    @property
    def degrees(self) -> int:
        """Degrees of freedom: measurements less fitted parameters."""
        return len(self.residuals) - sum(self.free)

    @property
    def correlation(self) -> FloatArray:
        """[F, F] correlation of the fitted parameters."""
        deviations = np.sqrt(np.diag(self.covariance))
        return np.asarray(self.covariance / np.outer(deviations, deviations))

    def intervals(self, confidence: float = 0.95) -> FloatArray:
        """[P, 2] confidence intervals of the parameters, Student's t; a fixed one is a point."""
        inner = inner_of(self.law, self.parameters)
        half = np.zeros(len(inner))
        half[list(self.free)] = np.sqrt(np.diag(self.covariance)) * self._quantile(confidence)
        ends = np.stack([outer_of(self.law, inner - half), outer_of(self.law, inner + half)], axis=1)
        return _widened(ends, self.resampled, confidence)

    def predict(
        self, factors: Factors, *, confidence: float = 0.95, scatter: bool = False, extrapolate: bool = False
    ) -> Prediction:
        """The law at `factors` [n]; with `scatter`, the interval is that of a new measurement, not of the law.

        Raises: `ExtrapolationError` more than ten times outside the fitted range, unless `extrapolate`.
        """
        if not extrapolate:
            self.check_range(factors)
        value, slopes = gradient(self.law, self.parameters, factors)
        slopes = slopes[:, list(self.free)]
        variance = ((slopes @ self.covariance) * slopes).sum(axis=1)
        half = np.sqrt(variance + scatter * self.deviation**2) * self._quantile(confidence)
        ends = np.stack([result_of(self.law, value - half), result_of(self.law, value + half)], axis=1)
        if len(self.resampled):
            drawn = np.stack([self.law.predict(row, factors) for row in self.resampled])
            ends = _widened(ends, drawn, confidence)
        return Prediction(value=result_of(self.law, value), low=ends[:, 0], high=ends[:, 1])

    def check_range(self, factors: Factors) -> None:
        """Raises: `ExtrapolationError` for a factor more than ten times outside the fitted range."""
        for name, (low, high) in self.box.items():
            beyond = np.maximum(factors[name] / high, low / np.maximum(factors[name], TINY))
            if (worst := float(beyond.max())) > MOST_EXTRAPOLATION:
                raise ExtrapolationError(
                    f"{name} = {factors[name][beyond.argmax()]:.4g} is {worst:.3g} times outside the fitted range "
                    f"{low:.4g} to {high:.4g}, and the law is trusted up to {MOST_EXTRAPOLATION:g} times: measure "
                    "nearer to it, or allow extrapolation"
                )

    def _quantile(self, confidence: float) -> float:
        return float(student.ppf((1.0 + confidence) / 2.0, self.degrees))


def fit_law(
    law: Law,
    factors: Factors,
    outcome: FloatArray,
    *,
    delta: float | None = None,
    fixed: Mapping[str, float] | None = None,
    begin: Iterable[FloatArray] | None = None,
    most_starts: int = 8,
) -> Fit:
    """Fit `law` to n measurements, `outcome` [n] at `factors`.

    `delta` is where Huber's loss turns linear, in the unit of residuals: 1e-3 for losses known that well; by default
    1.345 standard deviations as the median absolute residual has them. `fixed` holds known parameters at their values.
    Of all starts (the law's, or `begin`) the `most_starts` nearest to the data are followed.

    Raises: `FitError` for values that are not finite (or, under a logarithm, not positive), for too few measurements
    and for parameters that these measurements can't tell apart.
    """
    fixed = dict(fixed or {})
    if unknown := fixed.keys() - set(law.names):
        raise FitError(
            f"the law {law.name} has no parameter {', '.join(sorted(unknown))}: it has {', '.join(law.names)}"
        )
    free: BoolArray = np.array([name not in fixed for name in law.names])
    _check(law, factors, outcome, int(free.sum()))
    anchor = np.array([fixed.get(name, 1.0) for name in law.names])
    starts = [np.where(free, start, anchor) for start in (begin or law.starts(factors, outcome))]
    problem = Problem(law=law, factors=factors, outcome=outcome, free=free, anchor=anchor)
    with np.errstate(all="ignore"):  # A way down may touch where the law has no value, and turns back there.
        found = [problem.descend(start, delta) for start in problem.nearest(starts, most_starts)]
        if not found:
            raise FitError(f"no start of the law {law.name} fits these {len(outcome)} measurements at all")
        ends, deltas = [end for end, _ in found], [scale for _, scale in found]
        costs = [problem.cost(end, min(deltas)) for end in ends]
        best = int(np.argmin(costs))
        return replace(_described(problem, ends[best], deltas[best]), rival=_rival(law, ends[best], ends, costs))


def _described(problem: Problem, parameters: FloatArray, delta: float) -> Fit:
    """The fit at a minimum, with Huber's covariance (Huber 1981, Robust Statistics, chapter 7)."""
    names = [name for name, is_free in zip(problem.law.names, problem.free, strict=True) if is_free]
    if (direction := problem.singular(parameters)) is not None:
        untold = [name for name, share in zip(names, direction, strict=True) if abs(share) > 0.1]
        raise FitError(
            f"these measurements can't tell {' and '.join(untold)} of {problem.law.formula} apart; vary "
            f"{' and '.join(problem.law.factors)} independently, or fix one of them"
        )
    inner = inner_of(problem.law, parameters)[problem.free]
    residuals, slopes = problem.residuals(inner), problem.jacobian(inner)
    inside = np.abs(residuals) <= delta
    count, fitted, share = len(residuals), len(inner), max(float(inside.mean()), 1e-3)
    correction = 1.0 + fitted / count * (1.0 - share) / share
    pulls = np.clip(residuals, -delta, delta)
    variance = correction**2 * float((pulls**2).sum()) / (count - fitted) / share**2
    return Fit(
        law=problem.law,
        parameters=parameters,
        free=tuple(bool(is_free) for is_free in problem.free),
        covariance=np.asarray(variance * np.linalg.inv(slopes.T @ slopes)),
        residuals=residuals,
        deviation=float(np.sqrt((residuals**2).sum() / (count - fitted))),
        delta=delta,
        box=_box(problem.law, problem.factors),
    )


def _box(law: Law, factors: Factors) -> dict[str, tuple[float, float]]:
    plain = {name: factors[name] for name in law.factors if factors[name].ndim == 1}
    return {name: (float(v.min()), float(v.max())) for name, v in plain.items() if v.min() >= 0.0 < v.max()}


def _check(law: Law, factors: Factors, outcome: FloatArray, fitted: int) -> None:
    for name, values in {**{name: factors[name] for name in law.factors}, law.outcome: outcome}.items():
        if not np.isfinite(values).all():
            row = int(np.argwhere(~np.isfinite(values))[0][0])
            raise FitError(f"measurement {row} has no finite {name}: {values[row]}")
    if law.logarithmic and (outcome <= 0.0).any():
        row = int(np.flatnonzero(outcome <= 0.0)[0])
        raise FitError(
            f"the law {law.name} needs a positive {law.outcome}, but measurement {row} has {outcome[row]:.6g}"
        )
    if len(outcome) <= fitted:
        raise FitError(
            f"the law {law.name} has {fitted} parameters to find and there are {len(outcome)} measurements; it needs "
            f"at least {fitted + 1}"
        )


def _widened(ends: FloatArray, drawn: FloatArray, confidence: float) -> FloatArray:
    """The wider of an interval and of that of resampled values: with few groups neither is safe alone."""
    if not len(drawn):
        return ends
    low, high = np.quantile(drawn, [(1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0], axis=0)
    return np.stack([np.minimum(ends[:, 0], low), np.maximum(ends[:, 1], high)], axis=1)


def _rival(law: Law, best: FloatArray, ends: list[FloatArray], costs: list[float]) -> FloatArray | None:
    """The nearly best minimum that lies elsewhere."""
    least = min(costs)
    for place in np.argsort(costs).tolist():
        moved = np.abs(inner_of(law, ends[place]) - inner_of(law, best)) / (1.0 + np.abs(inner_of(law, best)))
        if costs[place] <= NEARLY_AS_GOOD * least and moved.max() > SAME_SOLUTION:
            return np.asarray(ends[place])
    return None
