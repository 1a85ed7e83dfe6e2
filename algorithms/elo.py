"""Elo ratings: one number a policy, for readers who are used to them.

They are the strengths of a Bradley-Terry model on a logarithmic scale, 400 points for odds of ten to one, fitted to
all win rates at once. A circle of win rates has no such strengths: then the ratings hide what `algorithms.tournament`
shows.
"""

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit

FloatArray = npt.NDArray[np.float64]

SCALE = 400.0 / np.log(10.0)


def elo_ratings(win_rates: npt.ArrayLike, games: int) -> FloatArray:
    """Ratings [M] relative to the first policy, which has 0, by maximum likelihood from win rates [M, M].

    `games` is how many comparisons stand behind each rate. One draw more is added to each pair, so that a policy that
    never lost has a finite rating.
    """
    rates = np.asarray(win_rates, dtype=np.float64)
    if rates.ndim != 2 or rates.shape[0] != rates.shape[1] or not np.allclose(rates + rates.T, 1.0):
        raise ValueError(f"win rates are [policies, policies] with P + P^T = 1, got shape {rates.shape}")
    if games < 1:
        raise ValueError(f"a win rate has at least one game behind it, got {games}")
    wins = (games * rates + 0.5) / (games + 1.0)
    np.fill_diagonal(wins, 0.0)

    def negative_log_likelihood(strengths: FloatArray) -> tuple[float, FloatArray]:
        margins = np.subtract.outer(strengths, strengths)
        surprise = wins * expit(-margins)
        return float((wins * np.logaddexp(0.0, -margins)).sum()), surprise.sum(axis=0) - surprise.sum(axis=1)

    found = minimize(negative_log_likelihood, np.zeros(len(wins)), jac=True, method="BFGS", options={"gtol": 1e-10})
    return np.asarray(SCALE * (found.x - found.x[0]), dtype=np.float64)
