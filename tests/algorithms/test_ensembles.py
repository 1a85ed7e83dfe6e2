"""Ensembles of rewards: the published rules on one scale, and what must not change them."""

import numpy as np
import pytest
from scipy.special import expit

from algorithms.ensembles import (
    Standardisation,
    bradley_terry,
    disagreement,
    mean,
    uncertainty_weighted,
    worst_case,
)
from algorithms.preference import InvalidPreference

REWARDS = np.array([[1.0, 3.0], [2.0, 2.0], [5.0, -1.0]])


def test_the_three_rules_by_hand() -> None:
    assert mean(REWARDS).tolist() == [2.0, 2.0, 2.0]
    assert worst_case(REWARDS).tolist() == [1.0, 2.0, -1.0]
    # Population variances 1, 0 and 9: with 1 / (M - 1) they would be 2, 0 and 18.
    assert uncertainty_weighted(REWARDS, 0.5).tolist() == [1.5, 2.0, -2.5]


def test_without_disagreement_the_rules_agree() -> None:
    same = np.repeat(np.array([[0.3], [-1.2]]), 5, axis=1)
    for rule in (mean, worst_case, lambda r: uncertainty_weighted(r, 7.0)):
        np.testing.assert_allclose(rule(same), [0.3, -1.2])


def test_no_rule_depends_on_the_order_of_members() -> None:
    rewards = np.random.default_rng(0).normal(size=(6, 4))
    shuffled = rewards[:, [2, 0, 3, 1]]
    for rule in (mean, worst_case, lambda r: uncertainty_weighted(r, 0.5)):
        np.testing.assert_allclose(rule(shuffled), rule(rewards))


def test_no_penalty_is_the_mean_and_a_larger_one_lowers_what_is_disputed() -> None:
    np.testing.assert_array_equal(uncertainty_weighted(REWARDS, 0.0), mean(REWARDS))
    order = np.argsort(uncertainty_weighted(REWARDS, 0.1))
    assert order.tolist() == [2, 0, 1]


def test_standardised_samples_have_mean_0_and_variance_1_and_units_do_not_matter() -> None:
    samples = np.random.default_rng(1).normal(size=(50, 3)) * [1.0, 10.8, 0.01] + [0.0, -30.0, 7.0]
    standard = Standardisation.of(samples)
    scaled = standard.apply(samples)
    np.testing.assert_allclose(scaled.mean(axis=0), 0.0, atol=1e-9)
    np.testing.assert_allclose(scaled.var(axis=0), 1.0)
    other = samples * [3.0, 0.1, 200.0] + [1.0, 2.0, 3.0]
    np.testing.assert_allclose(Standardisation.of(other).apply(other), scaled)


def test_scale_decides_who_is_the_worst_case() -> None:
    small, large = np.array([-1.0, 0.0, 1.0]), np.array([90.0, 0.0, -90.0])
    raw = np.stack([small, large], axis=1)
    # Raw, the member of large scale decides alone wherever it is negative.
    assert worst_case(raw).tolist() == [-1.0, 0.0, -90.0]
    standard = worst_case(Standardisation.of(raw).apply(raw))
    np.testing.assert_allclose(standard[0], standard[2])


@pytest.mark.parametrize("value", [0.0, 0.1, -3e5])
def test_a_member_without_a_scale_is_refused(value: float) -> None:
    samples = np.stack([np.arange(7.0), np.full(7, value)], axis=1)
    with pytest.raises(ValueError, match=r"member 1 gave .* to each of 7 samples"):
        Standardisation.of(samples)


def test_bradley_terry_is_exactly_antisymmetric_and_shift_invariant() -> None:
    rewards = np.random.default_rng(2).normal(size=8) * 20
    matrix = bradley_terry(rewards)
    assert (matrix + matrix.T == 1).all()
    assert (matrix.diagonal() == 0.5).all()
    assert matrix[0, 1] == pytest.approx(expit(rewards[0] - rewards[1]))
    np.testing.assert_allclose(bradley_terry(rewards + 5.0), matrix, atol=1e-12)
    np.testing.assert_allclose(bradley_terry(rewards, 10.0), bradley_terry(rewards / 10.0), atol=1e-15)


def test_a_reward_that_is_no_number_is_refused() -> None:
    with pytest.raises(InvalidPreference):
        bradley_terry(np.array([0.0, np.nan]))


def test_disagreement_is_0_in_agreement_and_a_half_at_most() -> None:
    certain = np.array([[0.5, 1.0], [0.0, 0.5]])
    assert disagreement([certain] * 3) == 0.0
    assert disagreement([certain, certain.T]) == 0.5
    assert disagreement([certain, np.full((2, 2), 0.5)]) == 0.25
    assert disagreement(np.full((2, 1, 1), 0.5)) == 0.0, "one candidate has no pairs"


def test_disagreement_is_a_mean_over_pairs() -> None:
    one, other = np.full((3, 3), 0.5), np.full((3, 3), 0.5)
    one[0, 1], one[1, 0] = 1.0, 0.0
    assert disagreement([one, other]) == pytest.approx(0.25 / 3)
