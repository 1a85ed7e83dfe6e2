"""Loss against size and data: L = E + A N^-a + B D^-b. Hoffmann et al. 2203.15556, eq. 2."""

from collections.abc import Iterator
from itertools import product

import numpy as np

from algorithms.preference import FloatArray
from algorithms.scaling.law import Factors, Law, Parameters, amplitudes, parameters_named


def predict(parameters: Parameters, factors: Factors) -> Parameters:
    """Losses [n] of N parameters and D tokens, both [n]."""
    E, A, a, B, b = parameters
    return np.asarray(E + A * factors["N"] ** -a + B * factors["D"] ** -b)


def starts(factors: Factors, outcome: FloatArray) -> Iterator[FloatArray]:
    """Shares of the smallest loss for E, pairs of exponents, and the amplitudes that then fit best."""
    for share, a, b in product((0.3, 0.7, 0.95), (0.15, 0.35, 0.6), (0.15, 0.35, 0.6)):
        E = share * outcome.min()
        A, B = amplitudes([factors["N"] ** -a, factors["D"] ** -b], outcome - E)
        yield np.array([E, A, a, B, b])


LOSS = Law(
    name="loss",
    formula="loss = E + A N^-a + B D^-b",
    source="Hoffmann et al. 2203.15556",
    factors=("N", "D"),
    outcome="loss",
    parameters=parameters_named("E", "A", "a", "B", "b"),
    predict=predict,
    starts=starts,
)
