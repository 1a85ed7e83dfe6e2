"""Pair selection: orientation, what is dropped, and chance that comes from the seed alone."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from algorithms.pairs import PairChoice, choose_pairs, distinct_pairs, regression_pairs
from algorithms.preference import FloatArray, antisymmetric
from algorithms.win_rates import self_included

CHOICES: tuple[PairChoice, ...] = ("best_worst", "all", "random")


@st.composite
def groups(draw: st.DrawFn) -> tuple[FloatArray, list[tuple[int, ...]]]:
    """A preference matrix with many ties, and token ids with many duplicates and empty completions."""
    count = draw(st.integers(2, 6))
    entry = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
    raw = np.full((count, count), 0.5)
    for i in range(count):
        for j in range(i):
            raw[i, j] = draw(entry)
            raw[j, i] = 1.0 - raw[i, j]
    identity = draw(st.lists(st.sampled_from([(), (1,), (1, 2), (3,)]), min_size=count, max_size=count))
    return antisymmetric(raw), identity


@given(groups(), st.sampled_from(CHOICES), st.integers(0, 2**63))
def test_every_pair_is_a_strict_preference_between_different_completions(
    group: tuple[FloatArray, list[tuple[int, ...]]], choice: PairChoice, seed: int
) -> None:
    preference, identity = group
    pairs = choose_pairs(preference, identity, choice, seed)
    for first, second, target in zip(pairs.first, pairs.second, pairs.target, strict=True):
        assert target == preference[first, second] > 0.5
        assert identity[first] != identity[second]
    count = len(identity)
    assert len(pairs) + pairs.dropped == (count * (count - 1) // 2 if choice == "all" else 1)
    again = choose_pairs(preference, identity, choice, seed)
    assert (again.first == pairs.first).all()
    assert (again.second == pairs.second).all()
    assert pairs.first.dtype == pairs.second.dtype == np.int64


@given(groups(), st.integers(0, 100))
def test_all_and_random_drop_only_what_must_be_dropped(
    group: tuple[FloatArray, list[tuple[int, ...]]], seed: int
) -> None:
    preference, identity = group
    usable = {
        (i, j)
        for i in range(len(identity))
        for j in range(len(identity))
        if preference[i, j] > 0.5 and identity[i] != identity[j]
    }
    every = choose_pairs(preference, identity, "all", seed)
    assert set(zip(every.first.tolist(), every.second.tolist(), strict=True)) == usable
    one = choose_pairs(preference, identity, "random", seed)
    assert len(one) == bool(usable)


def test_best_against_worst() -> None:
    scores = np.array([0.3, 2.0, -1.0, 0.9])
    preference = antisymmetric(1.0 / (1.0 + np.exp(scores[None, :] - scores[:, None])), tolerance=1e-9)
    pairs = choose_pairs(preference, "abcd", "best_worst", seed=0)
    assert (pairs.first.tolist(), pairs.second.tolist(), pairs.dropped) == ([1], [2], 0)
    assert choose_pairs(preference, "abab", "best_worst", seed=0).first.tolist() == [1]
    assert choose_pairs(preference, "abbd", "best_worst", seed=0).dropped == 1


def test_best_against_worst_is_oriented_by_the_direct_comparison() -> None:
    """Candidate 0 has the highest and 3 the lowest win rate, and yet 3 beats 0."""
    preference = np.array([[0.5, 1, 1, 0.4], [0, 0.5, 0.5, 1], [0, 0.5, 0.5, 1], [0.6, 0, 0, 0.5]])
    pairs = choose_pairs(preference, "abcd", "best_worst", seed=0)
    assert (pairs.first.tolist(), pairs.second.tolist(), pairs.target.tolist()) == ([3], [0], [0.6])
    preference[0, 3] = preference[3, 0] = 0.5
    assert choose_pairs(preference, "abcd", "best_worst", seed=0).dropped == 1


@pytest.mark.parametrize(("near", "far"), [(0.3, 0.4), (0.2, 0.1)])
def test_equal_win_rates_are_separated_by_the_seed_not_by_rounding(near: float, far: float) -> None:
    """Rows of a circulant game have one win rate, but one sum of floats is the smallest or the largest."""
    row = [0.5, near, far, 1 - far, 1 - near]
    preference = antisymmetric([row[-shift:] + row[:-shift] for shift in range(5)])
    assert len(set(self_included(preference).tolist())) == 2
    drawn = Counter(
        frozenset(pair)
        for seed in range(1000)
        for chosen in [choose_pairs(preference, "abcde", "best_worst", seed)]
        for pair in zip(chosen.first.tolist(), chosen.second.tolist(), strict=True)
    )
    assert drawn.total() == 1000
    assert len(drawn) == 10
    assert min(drawn.values()) > 60


def test_random_is_uniform_over_usable_pairs() -> None:
    preference = np.array([[0.5, 0.5, 1, 1], [0.5, 0.5, 1, 1], [0, 0, 0.5, 1], [0, 0, 0, 0.5]])
    drawn = Counter(
        (int(pairs.first[0]), int(pairs.second[0]))
        for seed in range(1000)
        for pairs in [choose_pairs(preference, "abcd", "random", seed)]
    )
    assert set(drawn) == {(0, 2), (0, 3), (1, 2), (1, 3), (2, 3)}
    assert min(drawn.values()) > 140


def test_fewer_than_two_candidates_or_a_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="K >= 2"):
        choose_pairs(np.array([[0.5]]), ["a"], "all", 0)
    with pytest.raises(ValueError, match="K = 3"):
        choose_pairs(np.full((2, 2), 0.5), "abc", "all", 0)


@given(groups())
def test_distinct_pairs_are_all_pairs_of_different_completions(group: tuple[FloatArray, list[tuple[int, ...]]]) -> None:
    _, identity = group
    places = np.arange(len(identity))[::-1]
    first, second, dropped = distinct_pairs(identity, places)
    found = [frozenset(pair) for pair in zip(first.tolist(), second.tolist(), strict=True)]
    wanted = {frozenset((i, j)) for i in places for j in places if identity[i] != identity[j]}
    assert len(found) == len(set(found))
    assert set(found) == wanted
    assert len(found) + dropped == len(identity) * (len(identity) - 1) // 2


def test_regression_pairs_keep_ties_and_put_the_higher_rate_first() -> None:
    preference = np.array([[0.5, 0.2, 0.9], [0.8, 0.5, 0.5], [0.1, 0.5, 0.5]])
    first, second = np.array([0, 1, 0]), np.array([1, 2, 2])
    rates = np.array([0.4, 0.6, 0.6])
    pairs = regression_pairs(preference, first, second, (rates[first], rates[second]), dropped=1)
    assert pairs.first.tolist() == [1, 1, 2]
    assert pairs.second.tolist() == [0, 2, 0]
    assert pairs.target.tolist() == [0.8, 0.5, 0.1]
    assert pairs.first_rate.tolist() == [0.6, 0.6, 0.6]
    assert pairs.second_rate.tolist() == [0.4, 0.6, 0.4]
    assert pairs.weight.tolist() == [1.0, 1.0, 1.0]
    taken = pairs.take(np.array([2]), asked=3).weighted(np.array([0.5]), 1.5)
    assert (taken.first.tolist(), taken.dropped, taken.weight.tolist()) == ([2], 2, [0.5])
    assert taken.effective_opponents == 1.5
