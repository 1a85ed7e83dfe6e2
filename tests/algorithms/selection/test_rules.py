"""Rules of selection: what is left out, what ties, and which of several candidates comes first."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from algorithms.selection.directions import at_angle
from algorithms.selection.rules import (
    NothingScored,
    best_of_majority,
    best_of_n,
    distinct,
    projected,
    soft_best_of_n,
    tournament,
)

NAN = float("nan")


def test_candidates_are_scored_by_the_target_not_by_their_own_direction() -> None:
    rewards = np.array([[1.0, 0.0], [0.0, 1.2], [0.6, 0.6]])
    assert best_of_n(projected(rewards, at_angle(0))).tolist() == [0, 2, 1]
    assert best_of_n(projected(rewards, at_angle(90))).tolist() == [1, 2, 0]


@given(st.floats(0, 90), st.floats(-180, 180), st.floats(-100, 100), st.floats(-100, 100))
def test_the_bound_of_a_neighbours_score(theta: float, target: float, first: float, second: float) -> None:
    """|(v_t - v_i) . r| <= 2 sin(theta / 2) ||r||."""
    reward = np.array([[first, second]])
    gap = projected(reward, at_angle(target))[0] - projected(reward, at_angle(target + theta))[0]
    assert abs(gap) <= 2 * np.sin(np.radians(theta) / 2) * np.linalg.norm(reward) + 1e-9


@pytest.mark.parametrize("broken", [[NAN, 1.0], [np.inf, 1.0], [1.0, NAN]])
def test_a_candidate_whose_scoring_failed_is_left_out_and_not_0(broken: list[float]) -> None:
    scores = projected(np.array([[-3.0, -3.0], broken, [-1.0, -1.0]]), at_angle(45))
    assert best_of_n(scores).tolist() == [2, 0]
    assert sorted(soft_best_of_n(scores, 1.0, seed=0).tolist()) == [0, 2]
    assert best_of_majority(scores, "aba", alpha=0.0).tolist() == [2, 0]


def test_without_any_score_nothing_is_chosen() -> None:
    for choose in (best_of_n, lambda s: soft_best_of_n(s, 1.0, 0), lambda s: best_of_majority(s, "ab", 0.1)):
        with pytest.raises(NothingScored):
            choose(np.array([NAN, NAN]))
    with pytest.raises(NothingScored):
        tournament(np.full((2, 2), 0.5), [False, False])


def test_identical_candidates_are_scored_once() -> None:
    first, kinds = distinct(["a", "b", "a", "c", "b"])
    assert first == [0, 1, 3]
    assert kinds.tolist() == [0, 1, 0, 2, 1]


def test_ties_go_to_the_earlier_candidate() -> None:
    assert best_of_n([1.0, 2.0, 2.0, 1.0]).tolist() == [1, 2, 0, 3]


def test_soft_best_of_n_has_the_softmax_distribution() -> None:
    """First place by softmax(scores / T); second place by the softmax of those that are left (Plackett-Luce)."""
    scores, temperature = np.array([0.0, 1.0, 2.0]), 0.8
    weights = np.exp(scores / temperature)
    drawn = [soft_best_of_n(scores, temperature, seed).tolist() for seed in range(4000)]
    first = Counter(order[0] for order in drawn)
    assert [first[i] / 4000 for i in range(3)] == pytest.approx(weights / weights.sum(), abs=0.025)
    pairs = Counter((order[0], order[1]) for order in drawn)
    expected = weights[2] / weights.sum() * weights[1] / (weights[0] + weights[1])
    assert pairs[2, 1] / 4000 == pytest.approx(expected, abs=0.025)


def test_soft_best_of_n_goes_from_best_of_n_to_the_policy() -> None:
    scores = [1e6, 2e6, 0.0]
    assert all(soft_best_of_n(scores, 1e-3, seed).tolist() == [1, 0, 2] for seed in range(20))
    firsts = Counter(int(soft_best_of_n([1.0, 2.0, 0.0], 1e9, seed)[0]) for seed in range(3000))
    assert min(firsts.values()) > 900
    with pytest.raises(ValueError, match="above 0"):
        soft_best_of_n(scores, 0.0, 0)


def test_best_of_majority_keeps_what_enough_candidates_agree_on() -> None:
    """Answer b scores best but stands alone; with alpha = 0 the rule is best-of-n over answers."""
    scores, answers = [3.0, 9.0, 4.0, 5.0], "abac"
    assert best_of_majority(scores, answers, alpha=0.5).tolist() == [2, 1, 3, 0]
    assert best_of_majority(scores, answers, alpha=0.0).tolist() == [1, 3, 2, 0]
    assert best_of_majority(scores, answers, alpha=0.25)[0] == 1, "a share of exactly alpha is kept"


def test_best_of_majority_falls_back_to_the_most_frequent_answer() -> None:
    assert best_of_majority([1.0, 9.0, 2.0, 5.0], "abac", alpha=0.9)[0] == 2
    assert best_of_majority([NAN, 9.0, NAN, 5.0], "abac", alpha=0.9)[0] == 1, "not an unscored one"
    with pytest.raises(ValueError, match="share"):
        best_of_majority([1.0], "a", alpha=1.5)


def test_best_of_majority_resists_a_wrong_reward_where_best_of_n_does_not() -> None:
    """A rare answer with an overestimated reward: best-of-n meets it more often the larger N is, majority never."""

    def share(picked: list[bool]) -> float:
        return sum(picked) / len(picked)

    generator = np.random.default_rng(0)
    chosen: dict[str, list[float]] = {"best": [], "majority": []}
    for n in (4, 64):
        wrong = generator.random((300, n)) < 0.02
        scores = np.where(wrong, 2.0, 1.0)
        chosen["best"].append(share([w[best_of_n(s)[0]] for w, s in zip(wrong, scores, strict=True)]))
        chosen["majority"].append(
            share([w[best_of_majority(s, w.tolist(), 0.3)[0]] for w, s in zip(wrong, scores, strict=True)])
        )
    assert chosen["best"][1] > 0.6 > 0.2 > chosen["best"][0]
    assert chosen["majority"][1] == 0.0


def test_a_tournament_is_won_by_the_highest_mean_probability() -> None:
    preference = np.array([[0.5, 0.9, 0.2], [0.1, 0.5, 0.6], [0.8, 0.4, 0.5]])
    assert tournament(preference).tolist() == [2, 0, 1]
    cycle = np.array([[0.5, 1.0, 0.0], [0.0, 0.5, 1.0], [1.0, 0.0, 0.5]])
    assert tournament(cycle).tolist() == [0, 1, 2], "a cycle is a tie of all"


def test_a_tournament_does_not_read_who_could_not_be_compared() -> None:
    preference = np.array([[0.5, NAN, 0.3], [NAN, NAN, NAN], [0.7, NAN, 0.5]])
    assert tournament(preference, [True, False, True]).tolist() == [2, 0]
