"""KL estimators against distributions whose divergence is known, and the two ratios of a run."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from algorithms.diagnostics import k1, k2, k3, mismatch, overlap_efficiency


def test_estimators_in_expectation_on_a_categorical_pair() -> None:
    policy = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    reference = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    log_ratio = (reference / policy).log()
    exact = 0.5 * math.log(2.5) + 0.2 * math.log(0.4)
    assert (policy @ k1(log_ratio)).item() == pytest.approx(exact, rel=1e-12)
    assert (policy @ k3(log_ratio)).item() == pytest.approx(exact, rel=1e-12)
    assert (policy @ k2(log_ratio)).item() == pytest.approx(0.7 / 2 * math.log(2.5) ** 2, rel=1e-12)


def test_estimators_on_gaussian_samples() -> None:
    """KL(N(m, 1) || N(0, 1)) = m^2 / 2; k3 must have the smaller spread near zero."""
    shift = 0.1
    draws = torch.randn(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + shift
    log_ratio = -(draws**2) / 2 + (draws - shift) ** 2 / 2
    exact = shift**2 / 2
    for estimator, tolerance in ((k1, 1e-3), (k2, 1e-4), (k3, 1e-4)):
        assert estimator(log_ratio).mean().item() == pytest.approx(exact, abs=tolerance)
    assert k3(log_ratio).std() < k1(log_ratio).std() / 5


@given(st.floats(-30, 30))
def test_k2_and_k3_are_never_negative_and_agree_to_second_order(value: float) -> None:
    ratio = torch.tensor(value, dtype=torch.float64)
    assert k3(ratio) >= 0
    assert k2(ratio) >= 0
    small = ratio / 1e3
    assert (k3(small) - k2(small)).abs() <= small.abs() ** 3 + 1e-16


def test_overlap_efficiency() -> None:
    assert overlap_efficiency(8.0, 5.0, 10.0) == 0.8
    assert overlap_efficiency(3.0, 10.0, 10.0) == 1.0
    with pytest.raises(ValueError, match="wall"):
        overlap_efficiency(1.0, 1.0, 0.0)


def test_mismatch_is_zero_exactly_when_both_agree_and_measures_a_known_shift() -> None:
    engine = torch.tensor([-1.0, -2.0, -0.5])
    assert mismatch(engine, engine.clone()) == (0.0, 0.0)
    kl, worst = mismatch(engine, engine + torch.tensor([0.0, -0.25, 0.125]))
    assert worst == 0.25
    first, second = math.exp(-2.0) * (math.exp(-0.25) - 1 + 0.25), math.exp(-0.5) * (math.exp(0.125) - 1 - 0.125)
    assert kl == pytest.approx(first + second, rel=1e-12)


def test_mismatch_over_a_whole_distribution_is_its_kl() -> None:
    engine = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    learner = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    assert mismatch(engine.log(), learner.log())[0] == pytest.approx(0.3 * math.log(2.5), rel=1e-12)


def test_mismatch_shows_what_is_not_finite_and_refuses_what_cannot_be_compared() -> None:
    kl, worst = mismatch(torch.tensor([-1.0, -1.0]), torch.tensor([-1.0, float("nan")]))
    assert math.isnan(kl)
    assert math.isnan(worst)
    with pytest.raises(ValueError, match=r"engine \(2,\), learner \(3,\)"):
        mismatch(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="at least one"):
        mismatch(torch.zeros(0), torch.zeros(0))
