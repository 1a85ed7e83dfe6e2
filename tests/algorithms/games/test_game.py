"""The payoff, its identities, and what a game refuses."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp

from algorithms.games import (
    FloatArray,
    Game,
    cyclic_game,
    kl,
    log_normalise,
    regularised_equilibrium,
    uniform_game,
)

GAMES = [uniform_game(10, beta=0.1, seed=1), uniform_game(40, beta=0.02, seed=2), cyclic_game(7, beta=1.0)]


def some_policies(game: Game, scale: float = 2.0) -> list[FloatArray]:
    random = np.random.default_rng(5)
    return [log_normalise(scale * random.normal(size=game.actions)) for _ in range(4)]


def test_known_values_of_the_example(example: Game) -> None:
    assert np.exp(example.best_response(example.reference)) == pytest.approx(
        [0.5521334108, 0.2133564155, 0.2345101737], abs=1e-9
    )
    assert example.duality_gap(example.reference) == pytest.approx(0.02081839508833381, abs=1e-12)
    assert example.unregularised_gap(example.reference) == pytest.approx(0.18, abs=1e-12)


@pytest.mark.parametrize("game", GAMES)
def test_every_form_of_the_duality_gap_agrees(game: Game) -> None:
    for policy in some_policies(game):
        answer = game.best_response(policy)
        best = game.payoff(answer, policy)
        worst = game.payoff(policy, answer)
        gap = game.duality_gap(policy)
        normaliser = logsumexp(game.reference + game.win_rates(policy) / game.beta)
        assert worst == pytest.approx(1.0 - best, abs=1e-12)
        assert gap == pytest.approx(best - worst, abs=1e-12)
        assert gap == pytest.approx(2.0 * best - 1.0, abs=1e-12)
        closed = 2.0 * game.beta * (normaliser + kl(policy, game.reference)) - 1.0
        assert gap == pytest.approx(closed, abs=1e-12)
        assert game.exploitability(policy) == pytest.approx(best - 0.5, abs=1e-12)


@pytest.mark.parametrize("game", GAMES)
def test_payoff_against_itself_is_one_half_and_the_game_is_zero_sum(game: Game) -> None:
    for policy in some_policies(game):
        assert game.payoff(policy, policy) == pytest.approx(0.5, abs=1e-12)
        assert game.win_rate(policy, policy) == pytest.approx(0.5, abs=1e-12)
        total = game.payoff(policy, game.reference) + game.payoff(game.reference, policy)
        assert total == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("game", GAMES)
def test_nothing_beats_the_best_response(game: Game) -> None:
    opponent, *others = some_policies(game)
    best = game.best_response(opponent)
    for other in [*others, game.reference, log_normalise(best + 1e-3 * others[0])]:
        assert game.payoff(other, opponent) < game.payoff(best, opponent)


def test_the_unregularised_gap_is_the_best_pure_answers_gain() -> None:
    game = uniform_game(6, beta=0.1)
    policy = some_policies(game)[0]
    brute = max(2.0 * float(row @ np.exp(policy)) - 1.0 for row in game.preference)
    assert game.unregularised_gap(policy) == pytest.approx(brute, abs=1e-12)


def test_the_gap_stays_accurate_and_positive_next_to_the_equilibrium() -> None:
    game = cyclic_game(9, beta=0.05)
    equilibrium = regularised_equilibrium(game).log_policy
    for distance in (1e-4, 1e-6, 1e-9):
        policy = log_normalise(equilibrium + distance * some_policies(game)[0])
        p, log_p = np.exp(policy.astype(np.longdouble)), policy.astype(np.longdouble)
        answer = game.reference + game.preference.astype(np.longdouble) @ p / game.beta
        log_q = answer - np.log(np.sum(np.exp(answer)))
        d = log_q - log_p
        series = float(2 * game.beta * np.sum(p * (d**2 / 2 + d**3 / 6 + d**4 / 24)))
        assert game.duality_gap(policy) == pytest.approx(series, rel=1e-3)
        assert game.duality_gap(policy) > 0.0


def test_kl_of_extreme_vectors() -> None:
    half = np.log([0.5, 0.5])
    with np.errstate(divide="ignore"):
        pure = np.log([1.0, 0.0])
    assert kl(half, half) == 0.0
    assert kl(pure, half) == pytest.approx(np.log(2.0), abs=1e-15)
    assert kl(half, pure) == np.inf
    assert kl(pure, pure) == 0.0
    far = log_normalise([0.0, -5000.0])
    assert kl(far, half) == pytest.approx(np.log(2.0), abs=1e-15)
    assert kl(half, far) == pytest.approx(2500.0 - np.log(2.0), rel=1e-12)


def test_input_is_copied_and_frozen() -> None:
    matrix = np.full((2, 2), 0.5)
    game = Game(preference=matrix, reference=np.log([0.5, 0.5]), beta=1.0)
    matrix[0, 1] = 0.9
    assert game.preference[0, 1] == 0.5
    with pytest.raises(ValueError, match="read-only"):
        game.preference[0, 1] = 0.9
    other = game.with_beta(0.1).with_reference(np.log([0.9, 0.1]))
    assert (game.beta, other.beta) == (1.0, 0.1)
    assert np.exp(other.reference) == pytest.approx([0.9, 0.1])
    assert np.exp(game.reference) == pytest.approx([0.5, 0.5])


def test_rounding_of_float32_is_accepted_and_removed() -> None:
    exact = uniform_game(12, beta=0.1)
    reference = exact.reference.astype(np.float32).astype(np.float64)
    preference = exact.preference.astype(np.float32).astype(np.float64)
    assert np.max(np.abs(preference + preference.T - 1.0)) > 1e-9
    game = Game(preference=preference, reference=reference, beta=0.1)
    assert np.max(np.abs(game.preference + game.preference.T - 1.0)) < 1e-15
    assert logsumexp(game.reference) == pytest.approx(0.0, abs=1e-15)


GOOD = [[0.5, 0.7], [0.3, 0.5]]
EVEN = np.log([0.5, 0.5])


@pytest.mark.parametrize(
    ("preference", "reference", "beta", "message"),
    [
        ([[0.5, 0.7]], EVEN, 0.1, r"square .* got shape \(1, 2\)"),
        (np.zeros((0, 0)), EVEN, 0.1, r"square .* got shape \(0, 0\)"),
        ([[0.5, 0.7], [0.4, 0.5]], EVEN, 0.1, r"P\[0, 1\] = 0.7 and P\[1, 0\] = 0.4"),
        ([[0.6, 0.7], [0.3, 0.5]], EVEN, 0.1, r"1/2 on the diagonal.*P\[0, 0\] = 0.6"),
        ([[0.5, 1.2], [-0.2, 0.5]], EVEN, 0.1, r"\[0, 1\], got values from -0.2 to 1.2"),
        ([[0.5, np.nan], [np.nan, 0.5]], EVEN, 0.1, "holds 2 NaN, the first at row 0, column 1"),
        (GOOD, EVEN, 0.0, "beta must be positive and finite, got 0.0"),
        (GOOD, EVEN, -0.1, "beta must be positive and finite, got -0.1"),
        (GOOD, EVEN, np.nan, "beta must be positive and finite, got nan"),
        (GOOD, [0.0, -np.inf], 0.1, r"full support: 1 of 2 .* action 1 \(-inf\)"),
        (GOOD, np.log([0.5, 0.4]), 0.1, "sums to 0.9, not 1"),
        (GOOD, np.log([0.5, 0.3, 0.2]), 0.1, r"2 log-probabilities, got shape \(3,\)"),
    ],
)
def test_bad_input_is_refused_with_its_numbers(
    preference: FloatArray, reference: FloatArray, beta: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Game(preference=preference, reference=reference, beta=beta)


def test_derived_games_are_checked_too() -> None:
    game = Game(preference=np.array(GOOD), reference=EVEN, beta=0.1)
    with pytest.raises(ValueError, match="beta must be positive"):
        game.with_beta(0.0)
    with pytest.raises(ValueError, match="full support"):
        game.with_reference([0.0, -np.inf])
