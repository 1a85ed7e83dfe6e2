"""Accuracy, calibration and biases: worked examples, invariance to how pairs are turned, and sources' formulas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from algorithms.calibration import accuracy, calibration, length_bias, position_bias, wilson


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_the_interval_of_scipy(case: tuple[int, int]) -> None:
    successes, n = case
    found, known = wilson(successes, n), stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((known.low, known.high), abs=1e-12)
    assert 0.0 <= found.low <= found.share <= found.high <= 1.0


def test_wilson_takes_halves_and_refuses_what_is_no_share() -> None:
    assert wilson(1.5, 3).share == 0.5
    assert np.isnan(wilson(0, 0).share)
    with pytest.raises(ValueError, match="between 0 and n = 2"):
        wilson(3, 2)


def test_accuracy_ignores_ties_of_the_labels_and_halves_those_of_the_model() -> None:
    found = accuracy(np.array([0.9, 0.2, 0.6, 0.5, 0.5]), np.array([1.0, 0.0, 1 / 3, 1.0, 0.5]))
    assert (found.share, found.n) == (2.5 / 4, 4)


def test_calibration_by_hand() -> None:
    found = calibration(np.array([0.62, 0.35, 0.97, 1.0]), np.array([1.0, 1.0, 1.0, 1.0]), bins=5)
    assert [round(b.low, 6) for b in found.bins] == [0.6, 0.9]
    assert [b.n for b in found.bins] == [2, 2]
    # In the first bin the model is 0.635 sure and right once in two.
    assert found.error == pytest.approx((2 * (0.635 - 0.5) + 2 * (1.0 - 0.985)) / 4)
    assert found.bins[0].agreement == 0.5


def test_labels_drawn_from_the_predictions_are_calibrated_and_overconfidence_is_seen() -> None:
    generator = np.random.default_rng(0)
    probabilities = generator.uniform(size=20_000)
    targets = (generator.uniform(size=20_000) < probabilities).astype(np.float64)
    assert calibration(probabilities, targets).error < 0.015
    odds = probabilities / (1.0 - probabilities)
    assert calibration(odds**3 / (1.0 + odds**3), targets).error > 0.1


def test_vote_shares_are_labels_like_any_other() -> None:
    assert calibration(np.array([2 / 3, 1 / 3, 0.5]), np.array([2 / 3, 1 / 3, 0.5])).error == pytest.approx(0.0)
    with pytest.raises(ValueError, match="at least one pair"):
        calibration(np.array([]), np.array([]))


numbers = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.1, 0.5, 0.5625, 0.875, 1.0]),
        st.sampled_from([0.0, 0.25, 0.5, 1.0]),
        st.integers(1, 5),
        st.integers(1, 5),
        st.booleans(),
    ),
    min_size=1,
    max_size=30,
)


@given(numbers)
def test_figures_do_not_depend_on_how_pairs_are_turned(rows: list[tuple[float, float, int, int, bool]]) -> None:
    p, t, a, b = (np.array(column, dtype=np.float64) for column in list(zip(*rows, strict=True))[:4])
    turned = np.array([row[4] for row in rows])
    q, u = np.where(turned, 1 - p, p), np.where(turned, 1 - t, t)
    c, d = np.where(turned, b, a), np.where(turned, a, b)
    assert repr(accuracy(q, u)) == repr(accuracy(p, t))
    assert repr(length_bias(q, u, c, d)) == repr(length_bias(p, t, a, b))
    assert calibration(q, u).error == pytest.approx(calibration(p, t).error)


def test_a_model_that_takes_the_longer_response_shows_it() -> None:
    targets = np.array([1.0, 1.0, 0.0, 0.0, 0.5, 1.0])
    first = np.array([9.0, 1.0, 9.0, 1.0, 9.0, 5.0])
    second = np.array([1.0, 9.0, 1.0, 9.0, 1.0, 5.0])
    found = length_bias(np.where(first > second, 0.9, 0.1), targets, first, second)
    assert (found.model.share, found.labels.share, found.model.n) == (1.0, 0.5, 4)
    assert found.excess.share == 0.5
    assert (found.accuracy_longer.share, found.accuracy_shorter.share) == (1.0, 0.0)
    fair = length_bias(targets, targets, first, second)
    assert (fair.excess.share, fair.excess.low, fair.excess.high) == (0.0, 0.0, 0.0)


def test_a_model_that_takes_the_first_place_shows_it() -> None:
    found = position_bias(np.array([0.9, 0.7, 0.8]), np.array([0.9, 0.3, 0.6]))
    assert found.lean == pytest.approx((0.4 + 0.0 + 0.2) / 3)
    assert found.consistent.share == pytest.approx(1 / 3)
    assert position_bias(np.array([0.9, 0.2]), np.array([0.1, 0.8])).lean == pytest.approx(0.0)
