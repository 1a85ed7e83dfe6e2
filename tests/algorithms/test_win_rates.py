"""Estimators of win rates: exact values, the bias of their differences in a pair regression, and weights."""

from collections.abc import Callable
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from algorithms.games import uniform_game
from algorithms.preference import FloatArray
from algorithms.win_rates import (
    against,
    effective_sample_size,
    pair_excluded,
    self_included,
    truncated_weights,
    within_pair,
)

PREFERENCE = np.array([[0.5, 0.9, 0.2, 0.6], [0.1, 0.5, 0.7, 0.3], [0.8, 0.3, 0.5, 1.0], [0.4, 0.7, 0.0, 0.5]])
Difference = Callable[[FloatArray, int, int], float]


def difference_of_self_included(matrix: FloatArray, i: int, j: int) -> float:
    rates = self_included(matrix)
    return float(rates[i] - rates[j])


def difference_of_pair_excluded(matrix: FloatArray, i: int, j: int) -> float:
    first, second = pair_excluded(matrix, np.array([i]), np.array([j]))
    return float(first[0] - second[0])


def difference_of_leave_one_out(matrix: FloatArray, i: int, j: int) -> float:
    """Not offered to regressions: this is why."""
    rates = (matrix.sum(axis=1) - 0.5) / (len(matrix) - 1)
    return float(rates[i] - rates[j])


def difference_within_pair(matrix: FloatArray, i: int, j: int) -> float:
    first, second = within_pair(matrix[[i], [j]])
    return float(first[0] - second[0])


def test_values_by_hand() -> None:
    assert self_included(PREFERENCE) == pytest.approx([0.55, 0.4, 0.65, 0.4])
    first, second = pair_excluded(PREFERENCE, np.array([0]), np.array([2]))
    assert (first[0], second[0]) == pytest.approx(((0.9 + 0.6) / 2, (0.3 + 1.0) / 2))
    assert against(PREFERENCE, np.array([2, 3]))[:2] == pytest.approx([0.4, 0.5])
    assert against(PREFERENCE, np.array([2, 3]), np.array([3.0, 1.0]))[:2] == pytest.approx([0.3, 0.6])


def test_within_pair_is_self_included_with_two() -> None:
    for i, j in combinations(range(4), 2):
        two = self_included(PREFERENCE[np.ix_([i, j], [i, j])])
        first, second = within_pair(PREFERENCE[[i], [j]])
        assert (first[0], second[0]) == pytest.approx(tuple(two))
        assert first - second == pytest.approx(PREFERENCE[i, j] - 0.5)


@pytest.mark.parametrize(
    ("difference", "slope"),
    [
        (difference_of_self_included, 1.0),
        (difference_of_pair_excluded, 1.0),
        (difference_within_pair, 1.0),
        (difference_of_leave_one_out, 4.0 / 3.0),
    ],
)
def test_slope_of_a_pair_regression_on_sampled_groups(difference: Difference, slope: float) -> None:
    """Groups of K = 4; the fitted d(y) - d(y') against the true win rates: leaving out oneself overshoots."""
    game, generator = uniform_game(5, beta=0.1, seed=3), np.random.default_rng(0)
    truth = game.win_rates(game.reference)
    labels, counts = np.zeros((5, 5)), np.zeros((5, 5))
    for group in generator.choice(5, size=(20000, 4), p=np.exp(game.reference)):
        i, j = group[0], group[1]
        labels[i, j] += difference(game.preference[np.ix_(group, group)], 0, 1)
        counts[i, j] += 1
    design = np.eye(5)[:, None, :] - np.eye(5)[None, :, :]
    root = np.sqrt(counts)[..., None]
    mean = labels / np.maximum(counts, 1)
    fitted = np.linalg.lstsq((root * design).reshape(25, 5), (root[..., 0] * mean).reshape(25), rcond=None)[0]
    centred = truth - truth.mean()
    assert fitted @ centred / (centred @ centred) == pytest.approx(slope, abs=0.03)


def test_self_included_rates_of_single_responses_are_nearer_to_one_half() -> None:
    """By (K - 1)/K, which single responses feel and differences do not: every group of K = 3 is enumerated."""
    game = uniform_game(3, beta=0.1, seed=5)
    probability, rates = np.exp(game.reference), np.zeros(3)
    for group in product(range(3), repeat=3):
        matrix = game.preference[np.ix_(group, group)]
        rates[group[0]] += probability[group[1]] * probability[group[2]] * self_included(matrix)[0]
    assert rates - 0.5 == pytest.approx(2.0 / 3.0 * (game.win_rates(game.reference) - 0.5))


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=8), st.floats(1.0, 10.0))
def test_weights_are_bounded_and_their_effective_number_lies_between_one_and_all(
    log_ratios: list[float], cap: float
) -> None:
    weights = truncated_weights(np.array(log_ratios), cap)
    assert ((weights > 0.0) & (weights <= cap)).all()
    assert 1.0 - 1e-9 <= effective_sample_size(weights) <= len(log_ratios) + 1e-9


def test_weights_by_hand() -> None:
    assert truncated_weights(np.log([0.5, 1.0, 3.0]), 2.0) == pytest.approx([0.5, 1.0, 2.0])
    assert effective_sample_size(np.array([1.0, 1.0, 1.0, 1.0])) == 4.0
    assert effective_sample_size(np.array([3.0, 1.0])) == pytest.approx(1.6)


def test_weighted_opponents_estimate_the_win_rates_against_the_newer_policy() -> None:
    game, generator = uniform_game(4, beta=0.1, seed=0), np.random.default_rng(1)
    old, new = np.full(4, 0.25), np.array([0.4, 0.3, 0.2, 0.1])
    drawn = generator.choice(4, size=40000, p=old)
    matrix = game.preference[:, drawn]
    weights = truncated_weights(np.log(new / old)[drawn], 10.0)
    assert against(matrix, np.arange(len(drawn)), weights) == pytest.approx(game.preference @ new, abs=0.01)
    assert np.abs(against(matrix, np.arange(len(drawn))) - game.preference @ new).max() > 0.03


def test_a_pair_needs_someone_outside_it() -> None:
    with pytest.raises(ValueError, match="K >= 3, got K = 2"):
        pair_excluded(PREFERENCE[:2, :2], np.array([0]), np.array([1]))
