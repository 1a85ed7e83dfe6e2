"""Step sizes eta with which the algorithms' guarantees are stated: callables (game, updates done) -> eta."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from algorithms.games.game import Game


def extragradient_step(game: Game, updates: int) -> float:
    """eta = 1 / (beta + 3), EGPO's conservative step (2503.08942; the constant 3 is UNCERTAIN)."""
    return 1.0 / (game.beta + 3.0)


def decaying_step(game: Game, updates: int) -> float:
    """eta_t = 2 / (beta (t + 2)) of INPO, Theorem 4 (2407.00617) and Nash-MD, Theorem 1 (2312.00886)."""
    return 2.0 / (game.beta * (updates + 2))


def magnetic_step(game: Game, updates: int) -> float:
    """eta = beta, at which simultaneous self-play with MMD is safe (2410.16714; constants UNCERTAIN)."""
    return game.beta


def optimistic_step(game: Game, updates: int) -> float:
    """eta = 1/8, the step of ONPO's last-iterate guarantee (2502.16852)."""
    return 0.125


def hedge_step(horizon: int) -> Callable[[Game, int], float]:
    """eta = sqrt(8 log n / T), the constant step of MWU's average-iterate bound for `horizon` = T updates."""
    if horizon < 1:
        raise ValueError(f"the horizon must be 1 update or more, got {horizon}")

    def eta(game: Game, updates: int) -> float:
        return float(np.sqrt(8.0 * np.log(max(game.actions, 2)) / horizon))

    return eta
