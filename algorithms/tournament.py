"""Several policies against each other on the same prompts: win rates, and the game that these make.

A policy is an action of a preference game whose matrix holds the win rates. Its equilibrium is the mixture of policies
that no policy beats (a maximal lottery); where win rates go in a circle it mixes several.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from algorithms.games import Game, unregularised_equilibrium
from algorithms.intervals import WinRate, win_rate_interval

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Standings:
    """What a round robin says of M policies.

    win_rates: [M][M], of the row's policy against the column's; 1/2 by definition on the diagonal.
    equilibrium: [M], the share of each policy in the mixture that no policy beats.
    exploitability: [M], how far the best of the M policies is above 1/2 against each: 0 if none beats it.
    """

    win_rates: tuple[tuple[WinRate, ...], ...]
    equilibrium: FloatArray
    exploitability: FloatArray


def policy_win_rates(preference: npt.ArrayLike, owner: npt.ArrayLike, policies: int) -> FloatArray:
    """Win rates [M, M] of policies on one prompt: means of the blocks of their completions' preferences.

    preference: [N, N], P + P^T = 1. owner: [N], which of the `policies` wrote each completion.
    Raises: ValueError when a policy wrote none.
    """
    written = np.eye(policies)[np.asarray(owner)]
    counts = written.sum(axis=0)
    if not counts.all():
        raise ValueError(f"every policy needs a completion, but policy {int(np.argmin(counts))} of {policies} has none")
    shares = written / counts
    return np.asarray(shares.T @ np.asarray(preference, dtype=np.float64) @ shares, dtype=np.float64)


def standings(outcomes: npt.ArrayLike, seed: int = 0) -> Standings:
    """Standings from win rates [Q, M, M] on Q prompts, outcomes + outcomes^T = 1 on each.

    Intervals are paired: a resampled prompt brings both policies' answers to it (`win_rate_interval`).
    """
    rates = np.asarray(outcomes, dtype=np.float64)
    game = Game(preference=rates.mean(axis=0), reference=np.full(rates.shape[1], -np.log(rates.shape[1])), beta=1.0)
    return Standings(
        win_rates=_intervals(rates, seed),
        equilibrium=np.exp(unregularised_equilibrium(game).log_policy),
        exploitability=game.preference.max(axis=0) - 0.5,
    )


def _intervals(rates: FloatArray, seed: int) -> tuple[tuple[WinRate, ...], ...]:
    prompts, policies, _ = rates.shape
    even = WinRate(mean=0.5, low=0.5, high=0.5, n=prompts)
    table = [[even] * policies for _ in range(policies)]
    for i, j in zip(*np.triu_indices(policies, 1), strict=True):
        found = win_rate_interval(np.clip(rates[:, i, j], 0.0, 1.0), seed=seed)
        table[i][j] = found
        table[j][i] = WinRate(mean=1.0 - found.mean, low=1.0 - found.high, high=1.0 - found.low, n=prompts)
    return tuple(map(tuple, table))
