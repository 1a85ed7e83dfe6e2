"""Seeded preference games for experiments.

Contract: the same arguments give the same game on every machine, and the preference matrix does not change
when only the reference's width does (matrix and reference draw from separate streams of the seed).

`reference_scale` is the standard deviation of the reference's normal logits; 0 gives a uniform reference.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import expit

from algorithms.games.game import FloatArray, Game, log_normalise


def uniform_game(actions: int, *, beta: float, seed: int = 0, reference_scale: float = 1.0) -> Game:
    """P_ij ~ U(0, 1) independently for i > j (the generator of EGPO's simulations, 2503.08942)."""
    matrix = _stream(seed, 0).uniform(size=(actions, actions))
    return _assemble(matrix, beta, seed, reference_scale)


def cyclic_game(
    actions: int,
    *,
    beta: float,
    seed: int = 0,
    strength: float = 0.4,
    noise: float = 0.05,
    reference_scale: float = 1.0,
) -> Game:
    """Generalised rock-paper-scissors: i beats the (n - 1) // 2 actions after it, at 1/2 + `strength`.

    With an even number of actions the opposite action is a tie, so the cycle keeps its symmetry.  Normal
    noise of the given standard deviation is added to every pair and the result clipped to [0, 1].
    """
    distance = (np.arange(actions)[None, :] - np.arange(actions)[:, None]) % max(actions, 1)
    beats = (distance > 0) & (2 * distance < actions)
    loses = 2 * distance > actions
    matrix = 0.5 + strength * (beats.astype(np.float64) - loses.astype(np.float64))
    matrix = matrix + noise * _stream(seed, 0).normal(size=(actions, actions))
    return _assemble(np.clip(matrix, 0.0, 1.0), beta, seed, reference_scale)


def bradley_terry_game(
    actions: int, *, beta: float, seed: int = 0, score_scale: float = 1.0, reference_scale: float = 1.0
) -> Game:
    """P_ij = sigma(r_i - r_j) with normal scores r of standard deviation `score_scale`: a transitive game."""
    scores = score_scale * _stream(seed, 0).normal(size=actions)
    return _assemble(expit(scores[:, None] - scores[None, :]), beta, seed, reference_scale)


def rock_paper_scissors(*, beta: float, seed: int = 0, strength: float = 0.5, reference_scale: float = 0.0) -> Game:
    """The three-action cycle without noise; its equilibrium is uniform when the reference is."""
    return cyclic_game(3, beta=beta, seed=seed, strength=strength, noise=0.0, reference_scale=reference_scale)


GENERATORS: dict[str, Callable[..., Game]] = {
    "uniform": uniform_game,
    "cyclic": cyclic_game,
    "bradley_terry": bradley_terry_game,
    "rock_paper_scissors": rock_paper_scissors,
}


def _stream(seed: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng([seed, purpose])


def _assemble(matrix: FloatArray, beta: float, seed: int, reference_scale: float) -> Game:
    """Keep the entries below the diagonal, mirror them, and draw the reference."""
    lower = np.tril(matrix, -1)
    upper = np.triu(1.0 - matrix.T, 1)
    preference = lower + upper + 0.5 * np.eye(len(matrix))
    logits = reference_scale * _stream(seed, 1).normal(size=len(matrix))
    return Game(preference=preference, reference=log_normalise(logits), beta=beta)
