"""Win-rate intervals: coverage, the prompt as the unit, and the degenerate cases."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.intervals import mean_interval, win_rate_interval


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_interval_covers_the_truth_as_often_as_it_says(confidence: float) -> None:
    generator = np.random.default_rng(0)
    trials, truth = 300, 0.3 + 0.2 / 2
    covered = 0
    for trial in range(trials):
        outcomes = generator.choice([1.0, 0.5, 0.0], p=[0.3, 0.2, 0.5], size=80)
        rate = win_rate_interval(outcomes, confidence=confidence, resamples=400, seed=trial)
        covered += rate.low <= truth <= rate.high
    assert covered / trials == pytest.approx(confidence, abs=0.05)


@settings(max_examples=50)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=30), st.integers(0, 5))
def test_ordered_inside_the_unit_interval_and_mirrored_when_sides_swap(outcomes: list[float], seed: int) -> None:
    rate = win_rate_interval(outcomes, resamples=200, seed=seed)
    assert 0.0 <= rate.low <= rate.mean <= rate.high <= 1.0
    assert rate.mean == pytest.approx(np.mean(outcomes))
    assert rate.n == len(outcomes)
    assert rate == win_rate_interval(outcomes, resamples=200, seed=seed)
    swapped = win_rate_interval([1.0 - outcome for outcome in outcomes], resamples=200, seed=seed)
    assert (swapped.low, swapped.high) == pytest.approx((1 - rate.high, 1 - rate.low))


def test_repeated_samples_of_a_prompt_do_not_narrow_the_interval() -> None:
    outcomes = np.random.default_rng(1).integers(0, 2, size=60).astype(float)
    one = win_rate_interval(outcomes)
    repeated = win_rate_interval(np.repeat(outcomes[:, None], 20, axis=1))
    assert repeated == one
    assert one.high - one.low == pytest.approx(2 * 1.96 * 0.5 / 60**0.5, rel=0.1)


def test_more_confidence_is_wider_and_seed_and_resamples_matter() -> None:
    outcomes = np.random.default_rng(1).random(37)
    narrow, wide = (win_rate_interval(outcomes, confidence=level) for level in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high
    assert win_rate_interval(outcomes, seed=1) != win_rate_interval(outcomes, seed=2)
    assert win_rate_interval(outcomes, resamples=100) != win_rate_interval(outcomes, resamples=200)


def test_equal_outcomes_still_leave_doubt_that_shrinks_with_prompts() -> None:
    """For 1 the bound is the binomial one: a rate of `low` wins n of n with probability 1 - confidence."""
    wins = win_rate_interval(np.ones(10))
    assert (wins.mean, wins.high) == (1.0, 1.0)
    assert wins.low**10 == pytest.approx(0.05)
    ties = win_rate_interval(np.full((40, 3), 0.5))
    assert ties.low < ties.mean == 0.5 < ties.high
    assert win_rate_interval([0.0]).high == pytest.approx(0.95)
    assert win_rate_interval(np.zeros(100)).high < win_rate_interval(np.zeros(10)).high


@pytest.mark.parametrize("outcomes", [[], [[]], [float("nan")], [1.2], [[[1.0]]], 1.0])
def test_what_are_no_outcomes_is_refused(outcomes: object) -> None:
    with pytest.raises(ValueError, match="outcomes"):
        win_rate_interval(outcomes)  # type: ignore[arg-type]


def test_a_confidence_that_is_no_share_is_refused() -> None:
    with pytest.raises(ValueError, match="95"):
        win_rate_interval([1.0], confidence=95)


def test_any_mean_has_an_interval_and_pairing_narrows_it() -> None:
    generator = np.random.default_rng(3)
    hard, noise = generator.normal(0.0, 5.0, 200), generator.normal(0.0, 0.5, 200)
    one, other = mean_interval(hard + 1.0 + noise), mean_interval(hard)
    paired = mean_interval(1.0 + noise)
    assert paired.mean == pytest.approx(one.mean - other.mean)
    assert 0.8 < paired.low < paired.mean < paired.high < 1.2
    assert one.high - one.low > 5 * (paired.high - paired.low)
    assert one.high - one.low == pytest.approx(2 * 1.96 * (hard + noise).std() / 200**0.5, rel=0.1)
    assert mean_interval(hard, seed=1) != other
    assert mean_interval(hard, confidence=0.5).low > other.low


def test_equal_values_have_no_width_and_what_is_not_finite_is_refused() -> None:
    same = mean_interval([2.5, 2.5])
    assert (same.mean, same.low, same.high, same.n) == (2.5, 2.5, 2.5, 2)
    for values in ([], [float("inf")], [[1.0]]):
        with pytest.raises(ValueError, match="finite and"):
            mean_interval(values)
