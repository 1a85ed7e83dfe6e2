"""Preference games with exact equilibria, and the exact update of each self-play algorithm on them.

Contract: NumPy and SciPy only; pure functions of their arguments; every policy is log-probabilities.

>>> import numpy as np
>>> game = rock_paper_scissors(beta=0.1)
>>> np.exp(regularised_equilibrium(game).log_policy).round(6).tolist()
[0.333333, 0.333333, 0.333333]
"""

from algorithms.games.delay import Delayed, delay_compensated
from algorithms.games.equilibrium import (
    ConvergenceError,
    Equilibrium,
    regularisation_bias_bound,
    regularised_equilibrium,
    residual_tolerance,
    unregularised_equilibrium,
)
from algorithms.games.game import FloatArray, Game, kl, log_normalise
from algorithms.games.generators import (
    GENERATORS,
    bradley_terry_game,
    cyclic_game,
    rock_paper_scissors,
    uniform_game,
)
from algorithms.games.momentum import Momentum
from algorithms.games.online_dpo import OnlineDPO, bradley_terry_fit
from algorithms.games.registry import STEP_SIZES, create, names
from algorithms.games.updates import Algorithm, Magnet, State, average_policy, trajectory

__all__ = [
    "GENERATORS",
    "STEP_SIZES",
    "Algorithm",
    "ConvergenceError",
    "Delayed",
    "Equilibrium",
    "FloatArray",
    "Game",
    "Magnet",
    "Momentum",
    "OnlineDPO",
    "State",
    "average_policy",
    "bradley_terry_fit",
    "bradley_terry_game",
    "create",
    "cyclic_game",
    "delay_compensated",
    "kl",
    "log_normalise",
    "names",
    "regularisation_bias_bound",
    "regularised_equilibrium",
    "residual_tolerance",
    "rock_paper_scissors",
    "trajectory",
    "uniform_game",
    "unregularised_equilibrium",
]
