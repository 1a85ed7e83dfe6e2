"""A bounded metric against compute: R = R0 + (A - R0) / (1 + (C_mid / C)^B). ScaleRL, Khatri et al. 2510.13786.

A is where more compute leads, C_mid the compute at half of the gain, B how sharp the rise is. Where R0 was measured
(a win rate against the start begins at 1/2), fix it: the early part of a curve hardly tells it.
"""

from collections.abc import Iterator
from itertools import product

import numpy as np

from algorithms.preference import FloatArray
from algorithms.scaling.law import Factors, Law, Parameters, parameters_named


def predict(parameters: Parameters, factors: Factors) -> Parameters:
    """Metrics [n] after compute C [n], in the unit of C_mid."""
    R0, A, B, C_mid = parameters
    return np.asarray(R0 + (A - R0) / (1.0 + (C_mid / factors["C"]) ** B))


def starts(factors: Factors, outcome: FloatArray) -> Iterator[FloatArray]:
    """Quantiles of compute for C_mid and a range of B, with the ends that then fit best."""
    for quantile, B in product((0.1, 0.3, 0.5, 0.7, 0.9), (0.5, 1.0, 2.0, 4.0)):
        C_mid = np.quantile(factors["C"], quantile)
        share = predict(np.array([0.0, 1.0, B, C_mid]), factors)
        R0, A = np.linalg.lstsq(np.stack([1.0 - share, share], axis=1), outcome, rcond=None)[0]
        yield np.array([R0, A, B, C_mid])


COMPUTE = Law(
    name="compute",
    formula="metric = R0 + (A - R0) / (1 + (C_mid / C)^B)",
    source="ScaleRL, 2510.13786",
    factors=("C",),
    outcome="win_rate",
    parameters=parameters_named("R0", "A", "B", "C_mid", real=("R0", "A")),
    predict=predict,
    starts=starts,
    logarithmic=False,
)
