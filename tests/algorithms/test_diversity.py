"""Distinct n-grams, counted by hand."""

import math

import pytest

from algorithms.diversity import distinct_n


def test_by_hand() -> None:
    answers = [[1, 2, 1, 2], [1, 2, 3]]
    assert distinct_n(answers, 1) == 3 / 7
    assert distinct_n(answers, 2) == 3 / 5  # 12 21 12, 12 23
    assert distinct_n(answers, 4) == 1.0


def test_a_repeated_answer_halves_it_and_order_does_not_matter() -> None:
    answer = [5, 6, 7, 8]
    assert distinct_n([answer], 2) == 1.0
    assert distinct_n([answer, answer], 2) == 0.5
    assert distinct_n([[1, 1], answer], 1) == distinct_n([answer, [1, 1]], 1)


def test_n_grams_end_with_their_answer() -> None:
    assert distinct_n([[1, 2], [3, 4]], 2) == 1.0
    assert math.isnan(distinct_n([[1], []], 2))


def test_n_is_at_least_one() -> None:
    with pytest.raises(ValueError, match="n = 0"):
        distinct_n([[1]], 0)
