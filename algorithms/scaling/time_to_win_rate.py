"""Seconds to a given win rate against the staleness bound and the number of engines. Our own form.

T(eta, engines) = (1 + kappa eta) r_{eta + 1}(G / engines, L), the number of updates times the seconds of one.

- **Updates.** Gradients that are eta updates old cost a share proportional to eta more updates: delayed SGD needs
  O(sigma^2 / e^2 + eta / e) of them on smooth convex losses (Stich and Karimireddy 1909.05350). kappa is that share.
- **Seconds of an update.** Pacing lets eta + 1 batches circulate between engines and learner. With exponential service
  times of mean a and b, this is the closed cyclic queue of two stations (Gordon and Newell 1967); with h_K the sum of
  a^i b^(K - i) over i = 0..K, a departure takes r_K = h_K / h_{K-1} on average: a + b for K = 1, the synchronous loop,
  and falling to max(a, b) as K grows. G and L are the seconds of all generation by one engine and of all learning, so
  that the number of updates needs no parameter of its own. Engines are assumed to share generation perfectly.

Exponential times vary more than real ones, so overlap comes earlier than the form says.
"""

from collections.abc import Iterator
from itertools import product

import numpy as np

from algorithms.preference import FloatArray
from algorithms.scaling.law import Factors, Law, Parameters, parameters_named


def departure(generation: Parameters, learning: Parameters, circulating: FloatArray) -> Parameters:
    """r_K [n] for `circulating` = K >= 1 [n]: r_1 = a + b and r_K = a + b - a b / r_{K-1}."""
    total = generation + learning
    result = interval = total
    for count in range(2, int(circulating.max(initial=1)) + 1):
        interval = total - generation * learning / interval
        result = np.where(circulating >= count, interval, result)
    return np.asarray(result)


def predict(parameters: Parameters, factors: Factors) -> Parameters:
    """Seconds [n] at `eta` (whole numbers, 0 or more) and `engines`, both [n]."""
    generation, learning, kappa = parameters
    seconds = departure(generation / factors["engines"], np.asarray(learning), factors["eta"] + 1.0)
    return np.asarray((1.0 + kappa * factors["eta"]) * seconds)


def starts(factors: Factors, outcome: FloatArray) -> Iterator[FloatArray]:
    """Shares of generation, and costs of staleness, at the mean time."""
    engines, seconds = float(factors["engines"].mean()), float(outcome.mean())
    for share, kappa in product((0.2, 0.5, 0.8), (0.0, 0.1, 0.5)):
        yield np.array([share * seconds * engines, (1.0 - share) * seconds, kappa])


TIME_TO_WIN_RATE = Law(
    name="time",
    formula="seconds = (1 + kappa eta) r_{eta + 1}(G / engines, L)",
    source="Closed queue of engines and learner, times the updates that staleness costs",
    factors=("engines", "eta"),
    outcome="seconds",
    parameters=parameters_named("G", "L", "kappa", real=("kappa",)),
    predict=predict,
    starts=starts,
)
