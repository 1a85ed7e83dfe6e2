"""Which pairs meet: the number of meetings, antisymmetry in every case, and what a completed matrix is exact about."""

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.comparisons import Pair, PairPlan, compare, completed, sparse_pairs
from algorithms.ensembles import bradley_terry
from algorithms.preference import FloatArray, InvalidPreference

PLANS: tuple[PairPlan, ...] = ("all", "tournament", "sparse")


def judge_of(matrix: FloatArray) -> Callable[[Sequence[Pair]], FloatArray]:
    """A judge that knows the matrix."""
    return lambda pairs: np.array([matrix[i, j] for i, j in pairs])


def any_matrix(count: int, seed: int) -> FloatArray:
    upper = np.triu(np.random.default_rng(seed).random((count, count)), 1)
    return upper + np.tril(1.0 - upper.T, -1) + np.eye(count) / 2


def connected(count: int, pairs: Sequence[Pair]) -> bool:
    reached = {0}
    for _ in range(count):
        reached |= {k for pair in pairs if reached & set(pair) for k in pair}
    return len(reached) == count


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.sampled_from(PLANS), st.integers(0, 1000))
def test_every_plan_gives_an_antisymmetric_matrix_that_keeps_what_was_judged(
    count: int, plan: PairPlan, seed: int
) -> None:
    truth = any_matrix(count, seed)
    found = compare(count, plan, judge_of(truth), seed)
    assert (found.matrix + found.matrix.T == 1).all()
    assert (found.matrix.diagonal() == 0.5).all()
    assert connected(count, found.pairs)
    for i, j in found.pairs:
        assert found.matrix[i, j] == pytest.approx(truth[i, j], abs=1e-15)


@pytest.mark.parametrize("count", [2, 3, 5, 8, 13])
def test_the_number_of_meetings(count: int) -> None:
    truth = any_matrix(count, 1)
    meetings = {plan: len(compare(count, plan, judge_of(truth), seed=3, degree=3).pairs) for plan in PLANS}
    assert meetings["all"] == count * (count - 1) // 2
    assert meetings["tournament"] == count - 1
    assert meetings["sparse"] == min(meetings["all"], -(-count * 3 // 2))


@pytest.mark.parametrize("plan", PLANS)
def test_a_bradley_terry_judge_is_completed_exactly(plan: PairPlan) -> None:
    truth = bradley_terry(np.array([0.3, -0.2, 1.1, 0.0, -0.9, 0.6, 0.1, -0.4]))
    found = compare(8, plan, judge_of(truth), seed=5, degree=2)
    np.testing.assert_allclose(found.matrix, truth, atol=1e-12)


def test_the_best_by_a_transitive_judge_wins_the_knockout_whoever_it_meets() -> None:
    truth = np.triu(np.ones((9, 9)), 1) + np.eye(9) / 2
    for seed in range(20):
        matrix = compare(9, "tournament", judge_of(truth), seed).matrix
        assert matrix.sum(axis=1).argmax() == 0


def test_unjudged_pairs_are_ordered_transitively_which_a_cycle_is_not() -> None:
    cycle = np.array([[0.5, 1.0, 0.0], [0.0, 0.5, 1.0], [1.0, 0.0, 0.5]])
    assert compare(3, "all", judge_of(cycle)).matrix[2, 0] == 1.0
    seen = {(0, 1): 1.0, (1, 2): 1.0}
    assert completed(3, seen)[2, 0] < 0.01


def test_a_certain_verdict_stays_certain_and_completes_to_something_finite() -> None:
    matrix = completed(3, {(0, 1): 1.0, (1, 2): 1.0})
    assert (matrix[0, 1], matrix[1, 2]) == (1.0, 1.0)
    assert 0.999 < matrix[0, 2] < 1.0


def test_seeds_draw_different_meetings_and_the_same_again() -> None:
    drawn = {tuple(sparse_pairs(8, 3, seed)) for seed in range(20)}
    assert len(drawn) == 20
    assert sparse_pairs(8, 3, 7) == sparse_pairs(8, 3, 7)
    brackets = {compare(8, "tournament", judge_of(any_matrix(8, 0)), seed).pairs for seed in range(10)}
    assert len(brackets) > 5


def test_the_degree_is_what_a_candidate_meets_on_average() -> None:
    for degree in (2, 4, 6):
        assert len(sparse_pairs(10, degree, 0)) == 5 * degree
    assert len(sparse_pairs(10, 50, 0)) == 45
    assert len(sparse_pairs(10, 1, 0)) == 10, "fewer would not hang together"


def test_every_pair_has_a_chance_to_meet() -> None:
    met = {pair for seed in range(200) for pair in sparse_pairs(6, 2, seed)}
    assert met == set(combinations(range(6), 2))


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("bad", [float("nan"), 1.5, -0.1])
def test_what_is_no_probability_is_refused(plan: PairPlan, bad: float) -> None:
    with pytest.raises(InvalidPreference, match="is not a probability"):
        compare(6, plan, lambda pairs: np.full(len(pairs), bad))
