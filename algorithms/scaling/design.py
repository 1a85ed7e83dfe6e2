"""What to measure next: the trials after which a prediction would be surest."""

from dataclasses import dataclass

import numpy as np

from algorithms.preference import FloatArray
from algorithms.scaling.fit import Fit
from algorithms.scaling.law import Factors
from algorithms.scaling.problem import gradient


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Proposal:
    """A measurement at these values of the factors; `shrinkage` is by how much, as a share, the interval narrows."""

    factors: dict[str, float]
    shrinkage: float


def next_measurements(fit: Fit, target: Factors, candidates: Factors, count: int = 3) -> list[Proposal]:
    """The `count` of the `candidates` [m] that would narrow the law's interval at `target` (one point) the most.

    With the law linear around its parameters, a measurement with derivatives z and the variance s^2 of the residuals
    takes g' V z z' V g / (s^2 + z' V z) from the variance g' V g of the prediction (c-optimal design, one step).
    Chosen greedily, each candidate once: a proposal assumes that those before it were made.
    """
    free = list(fit.free)
    slope = gradient(fit.law, fit.parameters, target)[1][0, free]
    rows = gradient(fit.law, fit.parameters, candidates)[1][:, free]
    covariance, noise = fit.covariance, fit.deviation**2
    before = float(slope @ covariance @ slope)
    proposals: list[Proposal] = []
    left_over = np.ones(len(rows), dtype=np.bool_)
    for _ in range(min(count, len(rows))):
        spread = rows @ covariance
        gain = (spread @ slope) ** 2 / (noise + (spread * rows).sum(axis=1))
        best = int(np.argmax(np.where(left_over, gain, -np.inf)))
        left_over[best] = False
        covariance = covariance - np.outer(spread[best], spread[best]) / (noise + spread[best] @ rows[best])
        left = max(float(slope @ covariance @ slope), 0.0)
        values = {name: float(candidates[name][best]) for name in fit.law.factors}
        proposals.append(Proposal(factors=values, shrinkage=1.0 - (left / before) ** 0.5))
    return proposals


def grid(ranges: dict[str, tuple[float, float]], points: int = 5) -> dict[str, FloatArray]:
    """Every combination of `points` values a factor, evenly spaced in logarithms between the ends of its range."""
    axes = [np.geomspace(low, high, points) for low, high in ranges.values()]
    return {name: axis.ravel() for name, axis in zip(ranges, np.meshgrid(*axes, indexing="ij"), strict=True)}
