"""Generated games are what their names say, and the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest

from algorithms.games import GENERATORS, bradley_terry_game, cyclic_game, rock_paper_scissors, uniform_game


@pytest.mark.parametrize("name", ["uniform", "cyclic", "bradley_terry"])
def test_seeds_decide_the_game(name: str) -> None:
    generate = GENERATORS[name]
    one, same, other = (generate(9, beta=0.1, seed=seed) for seed in (4, 4, 5))
    assert np.array_equal(one.preference, same.preference)
    assert np.array_equal(one.reference, same.reference)
    assert not np.array_equal(one.preference, other.preference)
    assert not np.array_equal(one.reference, other.reference)
    flat = generate(9, beta=0.1, seed=4, reference_scale=0.0)
    assert np.array_equal(flat.preference, one.preference)
    assert np.exp(flat.reference) == pytest.approx(np.full(9, 1 / 9), abs=1e-15)


def test_a_known_game_stays_the_same_across_versions() -> None:
    game = uniform_game(3, beta=0.1, seed=0)
    assert game.preference[1, 0] == pytest.approx(0.016527635528529094, abs=1e-12)
    assert game.reference[0] == pytest.approx(-0.5520167601000403, abs=1e-12)


def test_uniform_preferences_are_uniform() -> None:
    game = uniform_game(300, beta=0.1, seed=1)
    below = np.sort(game.preference[np.tril_indices(300, -1)])
    grid = (np.arange(len(below)) + 0.5) / len(below)
    assert np.max(np.abs(below - grid)) < 2.0 / np.sqrt(len(below))
    logits = game.reference - np.mean(game.reference)
    assert np.std(logits) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("actions", [3, 6, 7, 10])
def test_cycles_have_no_best_action(actions: int) -> None:
    game = cyclic_game(actions, beta=0.1, noise=0.0)
    assert np.sum(game.preference, axis=1) == pytest.approx(np.full(actions, actions / 2.0), abs=1e-12)
    assert game.preference[0, 1] == pytest.approx(0.9)
    assert game.preference[1, 0] == pytest.approx(0.1)
    shifted = game.permuted(np.roll(np.arange(actions), 1))
    assert np.array_equal(shifted.preference, game.preference)


def test_noise_and_strength_change_the_cycle() -> None:
    plain = cyclic_game(40, beta=0.1, noise=0.0).preference
    noisy = cyclic_game(40, beta=0.1, noise=0.05).preference
    difference = (noisy - plain)[np.tril_indices(40, -1)]
    assert np.std(difference) == pytest.approx(0.05, abs=0.005)
    assert cyclic_game(5, beta=0.1, noise=0.0, strength=0.2).preference[0, 1] == pytest.approx(0.7)
    clipped = cyclic_game(40, beta=0.1, noise=1.0).preference
    assert clipped.min() == 0.0
    assert clipped.max() == 1.0


def test_bradley_terry_log_odds_add_up() -> None:
    game = bradley_terry_game(8, beta=0.1, seed=2)
    odds = np.log(game.preference / game.preference.T)
    assert odds[:, :, None] + odds[None, :, :] == pytest.approx(np.broadcast_to(odds[:, None, :], (8, 8, 8)), abs=1e-12)
    flat = bradley_terry_game(8, beta=0.1, seed=2, score_scale=0.0)
    assert np.all(flat.preference == 0.5)


def test_rock_paper_scissors() -> None:
    assert np.array_equal(rock_paper_scissors(beta=0.1).preference, [[0.5, 1.0, 0.0], [0.0, 0.5, 1.0], [1.0, 0.0, 0.5]])
    assert rock_paper_scissors(beta=0.1, strength=0.3).preference[0, 1] == pytest.approx(0.8)
