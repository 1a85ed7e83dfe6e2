"""Loss under any schedule, each decline with a power law of its own: the multi-power law. Luo et al. 2503.12811.

L(t) = L0 + A S1^-alpha - B sum_{k <= t} (eta_{k-1} - eta_k) (1 - (C eta_k^-gamma S_k + 1)^-beta), with S1 the sum of
all rates up to t and S_k that from step k on. A rise of the rate is a negative decline, and warm-up is full of rises:
they count (without them the published parameters are off by B times the peak rate, 0.11 at 25M).
"""

from collections.abc import Iterator
from itertools import product

import numpy as np

from algorithms.preference import FloatArray
from algorithms.scaling.law import Factors, Law, Parameters, amplitudes, parameters_named

KNOTS = 128
"""Stretches of a run, each of which counts as one decline at its end."""
SMALLEST_RATE = 1e-9
"""Of the largest: where a rate of zero is put, whose negative power has no value."""


def multi_power_factors(rates: FloatArray, steps: FloatArray, knots: int = KNOTS) -> Factors:
    """What the law needs of a run with `rates` [T] of steps 0, 1, ..., at its `steps` [n].

    S1 [n]; and for K = `knots` stretches the decline [n, K] (0 where a stretch lies after the step), the rate at its
    end [n, K], and the sum of rates since [n, K].
    """
    at, sums = steps.astype(np.int64), np.cumsum(rates)
    bounds = np.linspace(0, len(rates) - 1, knots + 1).astype(np.int64)
    before, ends = bounds[:-1], bounds[1:]
    middle = (sums[before] + sums[ends] - rates[ends]) / 2.0
    reached = ends <= at[:, None]
    return {
        "S1": sums[at],
        "decline": np.where(reached, rates[before] - rates[ends], 0.0),
        "rate": np.broadcast_to(np.maximum(rates[ends], SMALLEST_RATE * rates.max()), reached.shape),
        "since": np.where(reached, sums[at][:, None] - middle, 0.0),
    }


def predict(parameters: Parameters, factors: Factors) -> Parameters:
    """Losses [n]."""
    L0, A, alpha, B, C, beta, gamma = parameters
    approach = 1.0 - (C * factors["rate"] ** -gamma * factors["since"] + 1.0) ** -beta
    return np.asarray(L0 + A * factors["S1"] ** -alpha - B * (factors["decline"] * approach).sum(axis=1))


def starts(factors: Factors, outcome: FloatArray) -> Iterator[FloatArray]:
    """A few of each exponent and of C, with the amplitudes that then fit best."""
    for alpha, C, exponent in product((0.3, 0.5, 0.8), (0.5, 2.0, 8.0), (0.3, 0.6)):
        drop = predict(np.array([0.0, 0.0, 0.0, 1.0, C, exponent, exponent]), factors)
        L0, A, B = amplitudes([np.ones(len(outcome)), factors["S1"] ** -alpha, drop], outcome)
        yield np.array([L0, A, alpha, B, C, exponent, exponent])


MULTI_POWER = Law(
    name="multi_power",
    formula="loss = L0 + A S1^-alpha - B sum_k (eta_{k-1} - eta_k) (1 - (C eta_k^-gamma S_k + 1)^-beta)",
    source="Luo et al. 2503.12811",
    factors=("S1", "decline", "rate", "since"),
    outcome="loss",
    parameters=parameters_named("L0", "A", "alpha", "B", "C", "beta", "gamma"),
    predict=predict,
    starts=starts,
)
