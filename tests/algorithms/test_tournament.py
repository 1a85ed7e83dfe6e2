"""A round robin is a preference game between policies: block means, paired intervals, the mixture nobody beats."""

import numpy as np
import numpy.typing as npt
import pytest

from algorithms.intervals import win_rate_interval
from algorithms.tournament import policy_win_rates, standings

CYCLE = np.array([[0.5, 0.8, 0.3], [0.2, 0.5, 0.6], [0.7, 0.4, 0.5]])
RANKING = np.array([[0.5, 0.6, 0.9], [0.4, 0.5, 0.7], [0.1, 0.3, 0.5]])


def preferences(count: int, seed: int = 0) -> npt.NDArray[np.float64]:
    upper = np.triu(np.random.default_rng(seed).random((count, count)), 1)
    return upper + np.tril(1.0 - upper.T, -1) + np.eye(count) / 2.0


def test_a_win_rate_is_the_mean_over_all_meetings() -> None:
    matrix = preferences(5)
    owner = [0, 1, 0, 1, 1]
    rates = policy_win_rates(matrix, owner, 2)
    assert rates[0, 1] == pytest.approx(np.mean([matrix[i, j] for i in (0, 2) for j in (1, 3, 4)]))
    np.testing.assert_allclose(rates + rates.T, 1.0)
    np.testing.assert_allclose(rates.diagonal(), 0.5)


def test_the_order_of_completions_does_not_matter() -> None:
    matrix, owner = preferences(6), np.array([0, 0, 1, 1, 2, 2])
    order = np.random.default_rng(1).permutation(6)
    shuffled = policy_win_rates(matrix[np.ix_(order, order)], owner[order], 3)
    np.testing.assert_allclose(shuffled, policy_win_rates(matrix, owner, 3))


def test_a_policy_without_a_completion_is_an_error() -> None:
    with pytest.raises(ValueError, match="policy 1 of 3 has none"):
        policy_win_rates(preferences(2), [0, 2], 3)


def test_a_cycle_is_won_by_a_mixture() -> None:
    found = standings(np.stack([CYCLE] * 3))
    # Rock, paper, scissors with margins a, b, c: each is played as often as the other two differ.
    np.testing.assert_allclose(found.equilibrium, np.array([0.1, 0.2, 0.3]) / 0.6, atol=1e-6)
    np.testing.assert_allclose(found.exploitability, [0.2, 0.3, 0.1])


def test_a_ranking_is_won_by_its_first() -> None:
    found = standings(np.stack([RANKING] * 3))
    np.testing.assert_allclose(found.equilibrium, [1.0, 0.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(found.exploitability, [0.0, 0.1, 0.4])


def test_intervals_are_those_of_the_pair_and_mirrored() -> None:
    rates = np.stack([preferences(3, seed) for seed in range(20)])
    found = standings(rates, seed=4).win_rates
    assert found[0][2] == win_rate_interval(rates[:, 0, 2], seed=4)
    for i in range(3):
        assert (found[i][i].low, found[i][i].mean, found[i][i].high) == (0.5, 0.5, 0.5)
        for j in range(3):
            one, other = found[i][j], found[j][i]
            assert one.n == 20
            assert (one.mean, one.low, one.high) == pytest.approx((1 - other.mean, 1 - other.high, 1 - other.low))


def test_a_difference_on_every_prompt_is_seen_through_prompts_that_vary() -> None:
    # The second policy's answers are worse by the same bit on each prompt: pairing removes what prompts add.
    hard = np.random.default_rng(0).random(200)
    scores = np.stack([hard, hard - 0.02], axis=1)
    rates = (1.0 + scores[:, :, None] - scores[:, None, :]) / 2.0
    found = standings(rates).win_rates[0][1]
    assert 0.5 < found.low <= found.mean == pytest.approx(0.51)
    assert found.high - found.low < 0.01 + (1 - 0.05 ** (1 / 200))
