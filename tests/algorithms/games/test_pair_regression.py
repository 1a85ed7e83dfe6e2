"""Which game a pair regression solves: gradients, implicit opponents, and biased win rates."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from algorithms.games import FloatArray, Game, create, log_normalise, uniform_game
from algorithms.games.sampled_pairs import WinRateEstimator, expected_pair_targets, pair_regression


def online_ipo_loss(game: Game, logits: FloatArray, log_opponent: FloatArray) -> float:
    """(1 / n^2) sum over y, y' of (h(y, y') - [P(y > q) - P(y' > q)] / beta)^2 on a tabular policy."""
    log_ratio = log_normalise(logits) - game.reference
    error = log_ratio - game.win_rates(log_opponent) / game.beta
    return float(np.mean((error[:, None] - error[None, :]) ** 2))


def gradient_step(game: Game, logits: FloatArray, log_opponent: FloatArray, rate: float) -> FloatArray:
    gradient = []
    for direction in 1e-3 * np.eye(game.actions):
        up = online_ipo_loss(game, logits + direction, log_opponent)
        down = online_ipo_loss(game, logits - direction, log_opponent)
        gradient.append((up - down) / 2e-3)
    return log_normalise(logits - rate * np.array(gradient))


def test_gradient_descent_on_the_pair_loss_is_the_mirror_step() -> None:
    game, eta = uniform_game(6, beta=0.4, seed=2), 0.9
    rate = eta * game.beta * game.actions / 4.0
    policy = log_normalise(np.random.default_rng(0).normal(size=6))
    for name in ("omd", "egpo"):
        algorithm = create(name, step_size=eta)
        state = algorithm.step(game, algorithm.start(game.with_reference(policy)))
        half = gradient_step(game, policy, policy, rate)
        wanted = half if name == "omd" else gradient_step(game, policy, half, rate)
        assert state.log_policy == pytest.approx(wanted, abs=1e-9)


def test_the_opponent_of_a_two_sample_loss_is_what_drew_the_pairs() -> None:
    game = uniform_game(7, beta=0.3, seed=4)
    stale = log_normalise(np.random.default_rng(1).normal(size=7))
    labels = game.preference - 0.5
    scores = pair_regression(labels, stale)
    assert np.ptp(scores - game.win_rates(stale)) < 1e-14
    assert log_normalise(game.reference + scores / game.beta) == pytest.approx(game.best_response(stale), abs=1e-12)
    assert np.ptp(scores - game.win_rates(game.reference)) > 0.05


def test_pair_regression_is_the_least_squares_solution() -> None:
    random = np.random.default_rng(3)
    sampler, half = log_normalise(random.normal(size=5)), random.normal(size=(5, 5))
    targets, p = half - half.T, np.exp(sampler)
    rows, labels = [], []
    for i, j in product(range(5), repeat=2):
        weight = np.sqrt(p[i] * p[j])
        rows.append(weight * (np.eye(5)[i] - np.eye(5)[j]))
        labels.append(weight * targets[i, j])
    solved = np.linalg.lstsq(np.array(rows), np.array(labels), rcond=None)[0]
    assert pair_regression(targets, sampler) == pytest.approx(solved - p @ solved, abs=1e-12)


def group_estimate(wins: FloatArray, a: int, b: int, estimator: WinRateEstimator) -> float:
    """The estimated win-rate difference of samples a and b from the group's K x K matrix, by definition."""
    samples = len(wins)
    if estimator == "include_self":
        return float(np.mean(wins[a]) - np.mean(wins[b]))
    if estimator == "leave_one_out":
        return float(np.mean(np.delete(wins[a], a)) - np.mean(np.delete(wins[b], b)))
    others = [k for k in range(samples) if k not in (a, b)]
    return float(np.mean(wins[a, others]) - np.mean(wins[b, others]))


@pytest.mark.parametrize(
    ("estimator", "slope"), [("include_self", 1.0), ("leave_one_out", 4.0 / 3.0), ("exclude_pair", 1.0)]
)
def test_slope_of_each_estimator(example: Game, estimator: WinRateEstimator, slope: float) -> None:
    """Every group of K = 4 draws of three actions is enumerated with its probability."""
    policy = log_normalise([0.3, -0.2, 0.9])
    p, targets = np.exp(policy), np.zeros((3, 3))
    for group in product(range(3), repeat=4):
        wins = example.preference[np.ix_(group, group)]
        given_pair = p[group[2]] * p[group[3]]
        targets[group[0], group[1]] += given_pair * group_estimate(wins, 0, 1, estimator)
    closed = expected_pair_targets(example, policy, samples=4, estimator=estimator)
    assert closed == pytest.approx(targets, abs=1e-12)
    win_rates = example.win_rates(policy)
    assert pair_regression(closed, policy) == pytest.approx(slope * (win_rates - 0.5), abs=1e-12)


def test_bad_input_is_refused(example: Game) -> None:
    policy = example.reference
    with pytest.raises(ValueError, match="exclude_pair needs 3 samples or more, got 2"):
        expected_pair_targets(example, policy, samples=2, estimator="exclude_pair")
    with pytest.raises(ValueError, match=r"must be one of .*, got 'loo'"):
        expected_pair_targets(example, policy, samples=4, estimator="loo")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"antisymmetric, but T \+ T\^T reaches 1"):
        pair_regression(example.preference, policy)
