"""Equilibria are equilibria, to the accuracy they state, however small beta."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from algorithms.games import (
    FloatArray,
    Game,
    bradley_terry_game,
    create,
    cyclic_game,
    kl,
    log_normalise,
    regularisation_bias_bound,
    regularised_equilibrium,
    residual_tolerance,
    rock_paper_scissors,
    trajectory,
    uniform_game,
    unregularised_equilibrium,
)


def test_known_equilibrium_of_the_example(example: Game) -> None:
    answer = regularised_equilibrium(example)
    assert np.exp(answer.log_policy) == pytest.approx([0.5222953603, 0.2227938731, 0.2549107665], abs=1e-9)
    assert answer.residual <= 1e-12
    assert answer.gap == example.duality_gap(answer.log_policy)


@pytest.mark.parametrize("beta", [1e-4, 0.01, 1.0, 50.0])
@pytest.mark.parametrize("reference_scale", [0.0, 1.0, 10.0])
@pytest.mark.parametrize("generator", [uniform_game, cyclic_game, bradley_terry_game])
def test_the_equilibrium_is_its_own_best_response(
    generator: Callable[..., Game], beta: float, reference_scale: float
) -> None:
    for actions in (1, 2, 3, 8):
        game = generator(actions, beta=beta, reference_scale=reference_scale)
        policy = regularised_equilibrium(game).log_policy
        difference = np.abs(np.exp(policy) - np.exp(game.best_response(policy)))
        assert np.sum(difference) <= residual_tolerance(game)
        assert np.all(np.isfinite(policy))


def test_a_reference_far_from_the_equilibrium_is_overcome() -> None:
    game = cyclic_game(7, beta=1e-3, seed=2, reference_scale=100.0)
    assert np.min(game.reference) < -100.0
    assert regularised_equilibrium(game).residual <= residual_tolerance(game)


@pytest.mark.parametrize("certain", [np.tri(5, k=-1), np.tri(5, k=-1)[::-1, ::-1].T])
def test_preferences_of_zero_and_one_are_solved(certain: FloatArray) -> None:
    game = Game(preference=certain + 0.5 * np.eye(5), reference=log_normalise(np.arange(5.0)), beta=1e-3)
    assert regularised_equilibrium(game).residual <= residual_tolerance(game)


def test_it_is_the_point_that_extragradient_reaches() -> None:
    for game in (uniform_game(10, beta=0.1, seed=3), cyclic_game(11, beta=0.1, seed=3)):
        *_, last = trajectory(create("egpo", step_size=1.0), game, 600)
        assert kl(regularised_equilibrium(game).log_policy, last.log_policy) < 1e-20


def test_a_thousand_actions_at_a_thousandth() -> None:
    game = uniform_game(1000, beta=1e-3)
    answer = regularised_equilibrium(game)
    assert np.all(np.isfinite(answer.log_policy))
    assert answer.residual <= residual_tolerance(game) < 4e-12
    assert answer.gap < 1e-20
    assert answer.steps < 200


def test_rock_paper_scissors_is_played_evenly() -> None:
    third = np.full(3, 1.0 / 3.0)
    game = rock_paper_scissors(beta=0.01)
    assert np.exp(regularised_equilibrium(game).log_policy) == pytest.approx(third, abs=1e-12)
    assert np.exp(unregularised_equilibrium(game).log_policy) == pytest.approx(third, abs=1e-12)


def test_unregularised_equilibrium_has_no_gap_and_no_losing_opponent() -> None:
    for game in (uniform_game(10, beta=1.0, seed=4), cyclic_game(30, beta=1.0), uniform_game(150, beta=1.0)):
        answer = unregularised_equilibrium(game)
        assert game.unregularised_gap(answer.log_policy) <= 1e-11
        assert np.max(game.win_rates(answer.log_policy)) <= 0.5 + 1e-11
        assert np.sum(np.exp(answer.log_policy)) == pytest.approx(1.0, abs=1e-14)


def test_a_condorcet_winner_wins() -> None:
    game = bradley_terry_game(12, beta=1.0, seed=2)
    winner = int(np.argmax(np.sum(game.preference, axis=1)))
    assert np.exp(unregularised_equilibrium(game).log_policy)[winner] == pytest.approx(1.0, abs=1e-12)


def test_the_bias_of_regularisation_is_bounded_and_vanishes() -> None:
    gaps = []
    for beta in (0.3, 0.03, 0.003):
        game = cyclic_game(10, beta=beta, seed=1)
        policy = regularised_equilibrium(game).log_policy
        gap, bound = game.unregularised_gap(policy), regularisation_bias_bound(game, policy)
        assert 0.0 < gap <= bound <= 2.0 * beta * -np.min(game.reference)
        best = int(np.argmax(game.win_rates(policy)))
        assert bound - gap == pytest.approx(-2.0 * beta * policy[best], abs=1e-10)
        gaps.append(gap)
    assert gaps[0] > 3.0 * gaps[1] > 9.0 * gaps[2]


def test_beta_moves_the_equilibrium_from_the_reference_to_the_winner() -> None:
    game = uniform_game(8, beta=1.0, seed=6)
    strong = regularised_equilibrium(game.with_beta(1e4)).log_policy
    weak = regularised_equilibrium(game.with_beta(1e-4)).log_policy
    assert kl(strong, game.reference) < 1e-8
    winner = np.exp(unregularised_equilibrium(game).log_policy)
    assert np.max(np.abs(np.exp(weak) - winner)) < 0.02
