"""Exact population optimum of online DPO: Bradley-Terry scores that best explain the pairs a policy draws.

Contract: `bradley_terry_fit` returns scores that satisfy the first-order condition to 1e-10, or raises
ConvergenceError.  Where an action always wins and no finite optimum exists, its score stops some 30 nats
above the others, where rounding no longer tells the difference.

Neither form below aims at a Nash equilibrium: online DPO solves the transitive (Bradley-Terry) case, and its
target mu exp(r / beta) is not pi* even there.  They are the comparison that self-play is measured against.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.special import expit

from algorithms.games.equilibrium import ConvergenceError
from algorithms.games.game import FloatArray, Game, log_normalise
from algorithms.games.updates import Algorithm, Observe, State

_NEWTON_LIMIT = 100
_ACCURACY = 1e-10


def bradley_terry_fit(game: Game, log_policy: FloatArray) -> FloatArray:
    """Scores r [n], sum_y p(y) r(y) = 0, minimising the logistic loss of P over pairs y, y' ~ p.

    The first-order condition is solved as sum_j p_j (sigma(r_i - r_j) - P_ij) = 0 for every i, without its
    factor p_i: each action's win rate against p is matched, also of actions that p hardly ever draws.
    """
    probabilities = np.exp(log_policy)
    scores = np.zeros(game.actions)
    residual, slopes = _condition(game, probabilities, scores)
    for _ in range(_NEWTON_LIMIT):
        if np.max(np.abs(residual)) <= 1e-14:
            break
        weighted = slopes * probabilities[None, :]
        matrix = np.diag(weighted.sum(axis=1)) - weighted + probabilities[None, :]
        try:
            direction = np.linalg.solve(matrix, -residual)
        except np.linalg.LinAlgError:
            break
        length = 1.0
        while length > 1e-6:
            candidate = scores + length * direction
            new_residual, new_slopes = _condition(game, probabilities, candidate)
            if np.max(np.abs(new_residual)) < np.max(np.abs(residual)):
                break
            length /= 2.0
        else:
            break
        scores, residual, slopes = candidate, new_residual, new_slopes
    error, spread = float(np.max(np.abs(residual))), float(np.ptp(scores))
    if not error <= _ACCURACY:
        raise ConvergenceError(
            f"the Bradley-Terry fit stopped at a first-order error of {error:.3g}, above {_ACCURACY:.3g}, "
            f"with scores {spread:.3g} nats apart"
        )
    return np.asarray(scores - probabilities @ scores, dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class OnlineDPO(Algorithm):
    """lp+ = anchor + r / beta with r fitted under pi x pi.

    The anchor is log mu (online DPO, 2402.04792) or, with `moving_reference`, lp itself (iterative DPO).
    """

    moving_reference: bool = False
    roles: ClassVar[tuple[str, ...]] = ()

    def advance(self, game: Game, state: State, observe: Observe) -> State:
        """See `Algorithm.advance`; the opponent is the pair sampler, so `observe` is not used."""
        anchor = state.log_policy if self.moving_reference else game.reference
        return state.after(log_normalise(anchor + bradley_terry_fit(game, state.log_policy) / game.beta))


def _condition(game: Game, probabilities: FloatArray, scores: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The first-order residual [n] and the logistic slopes sigma(x)(1 - sigma(x)) [n, n] at `scores`."""
    difference = scores[:, None] - scores[None, :]
    win = expit(difference)
    return (win - game.preference) @ probabilities, win * expit(-difference)
