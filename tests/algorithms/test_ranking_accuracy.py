"""Ranking accuracy, and the accuracy of the policy that fits the preferences perfectly."""

import numpy as np
import pytest

from algorithms.ranking_accuracy import idealised_accuracy, idealised_margin, ranking_accuracy


def test_sums_and_means_per_token_rank_differently() -> None:
    chosen, rejected = [-10.0, -4.0, -3.0], [-6.0, -4.0, -9.0]
    assert ranking_accuracy(chosen, rejected) == pytest.approx(2 / 3)
    assert ranking_accuracy(chosen, rejected, lengths=([10, 2, 1], [3, 4, 9])) == pytest.approx(1 / 3)


def test_the_ideal_policy_is_the_closed_form_of_the_regularised_optimum() -> None:
    """Two answers, reference (0.8, 0.2), shares (0.3, 0.7): pi* ~ ref exp(r / beta) with r_w - r_l = logit(0.7)."""
    beta, share = 0.5, 0.7
    reference = np.array([0.2, 0.8])
    rewards = np.array([np.log(share / (1 - share)), 0.0])
    policy = reference * np.exp(rewards / beta)
    policy /= policy.sum()
    margin = idealised_margin(np.log(reference[:1]), np.log(reference[1:]), share, beta)
    assert margin[0] == pytest.approx(np.log(policy[0] / policy[1]))


def test_a_strong_pull_to_the_reference_leaves_its_mistakes() -> None:
    """The reference is wrong by 10 nats; one rater in a thousand may disagree."""
    wrong = ([-20.0], [-10.0], 1.0)
    assert idealised_accuracy(*wrong, beta=0.1) == 1.0
    assert idealised_accuracy(*wrong, beta=5.0) == 0.0
    edge = np.log(999) / 10.0
    assert idealised_accuracy(*wrong, beta=edge * 0.99) == 1.0
    assert idealised_accuracy(*wrong, beta=edge * 1.01) == 0.0
    assert idealised_accuracy(*wrong, beta=edge * 1.01, epsilon=1e-4) == 1.0


def test_raters_who_disagree_keep_the_reference_order() -> None:
    assert idealised_accuracy([-1.0, -3.0], [-2.0, -2.0], 0.5, beta=0.1) == 0.5
    assert idealised_accuracy([-1.0, -3.0], [-2.0, -2.0], [0.5, 0.6], beta=0.1) == 1.0


def test_what_cannot_be_ranked_is_refused() -> None:
    with pytest.raises(ValueError, match="finite number a pair"):
        ranking_accuracy([float("-inf")], [0.0])
    with pytest.raises(ValueError, match="beta"):
        idealised_margin([0.0], [0.0], 1.0, beta=0.0)
