"""APO momentum speeds transitive games up and makes rotation worse."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from algorithms.games import Algorithm, Game, Momentum, bradley_terry_game, create, cyclic_game, trajectory

Gaps = Callable[[Algorithm, Game, Sequence[int]], list[float]]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_momentum_accelerates_a_transitive_game(seed: int) -> None:
    game = bradley_terry_game(10, beta=0.1, seed=seed)
    gaps = []
    for alpha in (0.0, 0.3, 0.6):
        *_, last = trajectory(create("mwu", step_size=1.0, momentum=alpha), game, 10)
        gaps.append(game.unregularised_gap(last.log_policy))
    assert gaps[0] > 1.2 * gaps[1] > 1.2**2 * gaps[2]


def test_momentum_destabilises_a_cyclic_game(last_gaps: Gaps) -> None:
    for seed in range(3):
        game = cyclic_game(10, beta=0.1, seed=seed)
        gaps = {
            alpha: last_gaps(create("omd", step_size=1.0, momentum=alpha), game, [100])[0] for alpha in (0.0, 0.3, 0.6)
        }
        assert gaps[0.6] > 0.05
        assert gaps[0.0] < gaps[0.3] < 1e-5


def test_the_effective_step_is_multiplied() -> None:
    """Against a constant opponent the logits grow by eta w / (1 - alpha) an update in the long run."""
    game, alpha, eta = bradley_terry_game(5, beta=1.0), 0.4, 0.01
    algorithm = create("mwu", step_size=eta, momentum=alpha)
    win_rates = game.win_rates(game.reference)
    states = [algorithm.start(game)]
    for _ in range(60):
        states.append(algorithm.advance(game, states[-1], lambda role, opponent: win_rates))
    growth = states[-1].log_policy - states[-2].log_policy
    assert np.ptp(growth - eta * win_rates / (1.0 - alpha)) < 1e-12
    hat_growth = states[-1].memory["momentum_previous"] - states[-2].memory["momentum_previous"]
    assert np.ptp(hat_growth - growth) < 1e-12


@pytest.mark.parametrize("coefficient", [1.0, -1.0, np.nan])
def test_the_coefficient_is_bounded(coefficient: float) -> None:
    with pytest.raises(ValueError, match=r"\(-1, 1\), got"):
        Momentum(inner=create("mwu", step_size=1.0), coefficient=coefficient)
