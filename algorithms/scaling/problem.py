"""The least-squares problem of a law: residuals, exact derivatives, the way down, and what the data can't tell.

Positive parameters are searched as logarithms (`inner`), and residuals are those of logarithms where the law is
logarithmic. Derivatives are complex-step ones, f'(x) = Im f(x + ih) / h: exact, because nothing is subtracted.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from algorithms.preference import BoolArray, FloatArray
from algorithms.scaling.law import Factors, Law, Parameters

COMPLEX_STEP = 1e-30
HUBER = 1.345
"""Standard deviations up to which a residual counts quadratically: 95% efficient if noise is normal."""
MAD_TO_DEVIATION = 1.4826
SMALLEST_DELTA = 1e-9
FLATTEST = 1e-12
"""Relative change of the loss, and slope, at which the way down ends."""
MOST_ROUNDS, SETTLED = 10, 0.9
"""Robust fits with a measured delta, until it falls by less than a tenth."""
SINGULAR = 1e-7
"""Smallest over largest singular value of the scaled Jacobian below which parameters can't be told apart."""


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """Least squares in the free inner parameters; those that are not free keep the values of `anchor` [P]."""

    law: Law
    factors: Factors
    outcome: FloatArray
    free: BoolArray
    anchor: FloatArray

    def whole(self, inner: Parameters) -> FloatArray:
        """[P] all parameters, of free inner ones [F]."""
        filled = inner_of(self.law, self.anchor)
        filled[self.free] = inner
        return np.asarray(outer_of(self.law, filled))

    def residuals(self, inner: Parameters) -> FloatArray:
        """[n]; not finite where the law is not defined."""
        predicted = self.law.predict(self.whole(inner), self.factors)
        if self.law.logarithmic:
            return np.asarray(np.log(predicted) - np.log(self.outcome))
        return np.asarray(predicted - self.outcome)

    def jacobian(self, inner: Parameters) -> FloatArray:
        """[n, F] derivatives of the residuals."""
        return gradient(self.law, self.whole(inner), self.factors)[1][:, self.free]

    def cost(self, parameters: FloatArray, delta: float) -> float:
        """Sum of Huber losses; infinite where the law is not defined."""
        sizes = np.abs(self.residuals(inner_of(self.law, parameters)[self.free]))
        total = float(np.where(sizes <= delta, sizes**2 / 2.0, delta * (sizes - delta / 2.0)).sum())
        return total if np.isfinite(total) else np.inf

    def nearest(self, starts: list[FloatArray], most: int) -> list[FloatArray]:
        """The `most` starts with the smallest squared residuals."""
        costs = np.array([self.cost(start, np.inf) for start in starts])
        return [starts[place] for place in np.argsort(costs)[:most] if np.isfinite(costs[place])]

    def descend(self, start: FloatArray, delta: float | None) -> tuple[FloatArray, float]:
        """The minimum of Huber's loss nearest to `start`, [P], and its delta, measured where it is not given."""
        inner = inner_of(self.law, start)[self.free]
        if delta is not None:
            return self.whole(self.minimum(inner, delta)), delta
        # Outliers widen the first spread; each robust fit shows more of that of the others.
        delta, measured = np.inf, np.inf
        for _ in range(MOST_ROUNDS):
            inner = self.minimum(inner, measured)
            delta, measured = measured, self.measured_delta(inner)
            if measured > SETTLED * delta:
                break
        return self.whole(inner), delta

    def minimum(self, inner: FloatArray, delta: float) -> FloatArray:
        """[F] where Huber's loss (of squares only, with an infinite delta) is smallest near `inner` [F]."""
        robust = np.isfinite(delta)
        return least_squares(
            self.residuals,
            inner,
            self.jacobian,
            x_scale="jac",
            loss="huber" if robust else "linear",
            f_scale=delta if robust else 1.0,
            ftol=FLATTEST,
            gtol=FLATTEST,
            xtol=1e-10,
        ).x

    def measured_delta(self, inner: FloatArray) -> float:
        """1.345 standard deviations of the residuals, as their median size has them."""
        residuals = self.residuals(inner)
        # Fitted parameters have taken their share of the residuals.
        share = float(np.sqrt(len(residuals) / (len(residuals) - len(inner))))
        spread = float(np.median(np.abs(residuals))) * share
        return max(HUBER * MAD_TO_DEVIATION * spread, SMALLEST_DELTA)

    def singular(self, parameters: FloatArray) -> FloatArray | None:
        """The direction of parameters [F] that these measurements tell nothing about, if there is one."""
        slopes = self.jacobian(inner_of(self.law, parameters)[self.free])
        sizes = np.linalg.norm(slopes, axis=0)
        if not np.isfinite(sizes).all() or (sizes == 0.0).any():
            return np.asarray(~np.isfinite(sizes) | (sizes == 0.0), dtype=np.float64)
        _, values, directions = np.linalg.svd(slopes / sizes, full_matrices=False)
        return directions[-1] if values[-1] < SINGULAR * values[0] else None


def gradient(law: Law, parameters: FloatArray, factors: Factors) -> tuple[FloatArray, FloatArray]:
    """Value [n] and derivatives [n, P] of the (logarithm of the) law by the (logarithms of positive) parameters."""
    inner = inner_of(law, parameters)
    columns = []
    for place in range(len(inner)):
        moved = inner.astype(np.complex128)
        moved[place] += 1j * COMPLEX_STEP
        predicted = law.predict(outer_of(law, moved), factors)
        columns.append((np.log(predicted) if law.logarithmic else predicted).imag / COMPLEX_STEP)
    value = law.predict(parameters, factors)
    return (np.log(value) if law.logarithmic else value), np.stack(columns, axis=1)


def inner_of(law: Law, parameters: FloatArray) -> FloatArray:
    """[P] as they are fitted: logarithms of the positive ones."""
    return np.where(law.positive, np.log(np.where(law.positive, parameters, 1.0)), parameters)


def outer_of(law: Law, inner: Parameters) -> Parameters:
    """[P] as the law takes them."""
    return np.where(law.positive, np.exp(np.where(law.positive, inner, 0.0)), inner)


def result_of(law: Law, value: FloatArray) -> FloatArray:
    """[n] outcomes, of values on the scale of the residuals."""
    return np.exp(value) if law.logarithmic else value
