"""Momentum of Accelerated Preference Optimization (APO, He, Yuan and Gu, 2410.06293) around any algorithm.

Contract: with coefficient 0 the wrapped algorithm is unchanged.

    hat_{t+1} = inner step from pi_t,  hat_0 = pi_0
    lp_{t+1}  = log hat_{t+1} + alpha (log hat_{t+1} - log hat_t)
It multiplies the effective step by 1 / (1 - alpha).  That accelerates transitive preferences and makes the
rotation of cyclic ones worse.  The paper's value and schedule of alpha are UNCERTAIN.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from algorithms.games.game import Game, log_normalise
from algorithms.games.updates import Observe, State, Wrapper


@dataclass(frozen=True, kw_only=True)
class Momentum(Wrapper):
    """`inner` with extrapolation `coefficient` = alpha, in (-1, 1)."""

    coefficient: float

    def __post_init__(self) -> None:
        if not -1.0 < self.coefficient < 1.0:
            raise ValueError(f"the momentum coefficient must lie in (-1, 1), got {self.coefficient}")

    def advance(self, game: Game, state: State, observe: Observe) -> State:
        """See `Algorithm.advance`."""
        previous = state.memory.get("momentum_previous", state.log_policy)
        result = self.inner.advance(game, state, observe)
        hat = result.log_policy
        extrapolated = log_normalise(hat + self.coefficient * (hat - previous))
        return replace(result, log_policy=extrapolated, memory={**result.memory, "momentum_previous": hat})
