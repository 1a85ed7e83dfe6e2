"""Shared by the tests of games: the worked example and short ways to run an algorithm."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from algorithms.games import Algorithm, FloatArray, Game, trajectory

Gaps = Callable[[Algorithm, Game, Sequence[int]], list[float]]


@pytest.fixture
def example() -> Game:
    """The three-action game on which every algorithm's first two policies are known."""
    return Game(
        preference=np.array([[0.5, 0.9, 0.2], [0.1, 0.5, 0.7], [0.8, 0.3, 0.5]]),
        reference=np.log([0.5, 0.3, 0.2]),
        beta=0.5,
    )


def policies(algorithm: Algorithm, game: Game, updates: int) -> list[FloatArray]:
    """The log-probabilities after 0, 1, ..., `updates` updates."""
    return [state.log_policy for state in trajectory(algorithm, game, updates)]


@pytest.fixture
def last_gaps() -> Gaps:
    """The regularised duality gap of the last iterate at each of the given numbers of updates."""

    def gaps(algorithm: Algorithm, game: Game, at: Sequence[int]) -> list[float]:
        visited = policies(algorithm, game, max(at))
        return [game.duality_gap(visited[update]) for update in at]

    return gaps


@pytest.fixture
def run() -> Callable[[Algorithm, Game, int], list[FloatArray]]:
    """`policies`, for tests."""
    return policies
