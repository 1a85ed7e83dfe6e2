"""The population optimum of online DPO: right on transitive games, wrong on cycles."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from algorithms.games import (
    Algorithm,
    FloatArray,
    Game,
    bradley_terry_fit,
    bradley_terry_game,
    create,
    cyclic_game,
    kl,
    log_normalise,
    regularised_equilibrium,
    rock_paper_scissors,
    uniform_game,
)

Run = Callable[[Algorithm, Game, int], list[FloatArray]]


@pytest.mark.parametrize("sharpness", [0.0, 2.0, 60.0])
def test_scores_are_recovered_whatever_draws_the_pairs(sharpness: float) -> None:
    game = bradley_terry_game(8, beta=0.1, seed=3)
    scores = np.log(game.preference[:, 0] / game.preference[0, :])
    sampler = log_normalise(sharpness * np.random.default_rng(1).normal(size=8))
    fitted = bradley_terry_fit(game, sampler)
    assert np.ptp(fitted - scores) < 1e-8
    assert np.exp(sampler) @ fitted == pytest.approx(0.0, abs=1e-10)


def test_the_fit_minimises_the_logistic_loss() -> None:
    game = uniform_game(6, beta=0.1, seed=5)
    sampler = log_normalise(np.random.default_rng(2).normal(size=6))
    weights = np.exp(sampler)[:, None] * np.exp(sampler)[None, :]

    def loss(scores: FloatArray) -> float:
        margin = scores[:, None] - scores[None, :]
        return float(np.sum(weights * game.preference * np.logaddexp(0.0, -margin)))

    fitted = bradley_terry_fit(game, sampler)
    for direction in np.eye(6):
        assert loss(fitted + 1e-3 * direction) > loss(fitted)
        assert loss(fitted - 1e-3 * direction) > loss(fitted)
        assert loss(fitted + 1e-5 * direction) == pytest.approx(loss(fitted - 1e-5 * direction), abs=1e-14)


def test_one_round_is_the_closed_form_optimum() -> None:
    game = bradley_terry_game(5, beta=0.7, seed=1)
    scores = np.log(game.preference[:, 0] / game.preference[0, :])
    algorithm = create("online_dpo")
    once = algorithm.step(game, algorithm.start(game))
    twice = algorithm.step(game, once)
    wanted = log_normalise(game.reference + scores / 0.7)
    assert once.log_policy == pytest.approx(wanted, abs=1e-8)
    assert twice.log_policy == pytest.approx(wanted, abs=1e-8)
    moving = create("iterative_dpo")
    again = moving.step(game, moving.step(game, moving.start(game)))
    assert again.log_policy == pytest.approx(log_normalise(game.reference + 2 * scores / 0.7), abs=1e-7)


def test_its_target_is_not_the_equilibrium_even_when_preferences_are_transitive(run: Run) -> None:
    game = bradley_terry_game(5, beta=0.5, seed=1)
    policy = run(create("online_dpo"), game, 2)[-1]
    assert kl(regularised_equilibrium(game).log_policy, policy) > 1e-2


def test_it_solves_transitive_games_and_not_cyclic_ones(run: Run) -> None:
    for seed in range(3):
        transitive = bradley_terry_game(10, beta=0.1, seed=seed)
        cyclic = cyclic_game(10, beta=0.1, seed=seed)
        for name in ("online_dpo", "iterative_dpo"):
            assert transitive.unregularised_gap(run(create(name), transitive, 10)[-1]) < 0.05
            assert cyclic.unregularised_gap(run(create(name), cyclic, 10)[-1]) > 0.5
        reached = cyclic.unregularised_gap(run(create("egpo", step_size=1.0), cyclic, 100)[-1])
        assert reached < 0.3


def test_certain_preferences_give_scores_as_large_as_rounding_can_tell() -> None:
    third = np.log(np.full(3, 1 / 3))
    assert bradley_terry_fit(rock_paper_scissors(beta=1.0), third) == pytest.approx(np.zeros(3), abs=1e-12)
    certain = Game(preference=np.array([[0.5, 1.0], [0.0, 0.5]]), reference=np.log([0.5, 0.5]), beta=1.0)
    winner, loser = bradley_terry_fit(certain, certain.reference)
    assert 20.0 < winner - loser < 50.0


def test_many_actions_stay_finite(run: Run) -> None:
    game = uniform_game(400, beta=1e-3)
    for name in ("online_dpo", "iterative_dpo"):
        assert np.all(np.isfinite(run(create(name), game, 2)))
