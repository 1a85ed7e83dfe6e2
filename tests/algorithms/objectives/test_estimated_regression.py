"""How groups become pairs with win rates: estimators, drawn labels, weights of old opponents, choice of responses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from algorithms.games import log_normalise, uniform_game
from algorithms.objective import build_objective
from algorithms.pairs import Pairs
from algorithms.win_rates import pair_excluded, self_included, truncated_weights
from tests.algorithms.objectives.groups import group_of
from tests.algorithms.pair_examples import worked_pair


def pairs_of_four(**options: Any) -> Pairs:
    preference, identity, _ = group_of(4)
    return build_objective("dno", {"candidates": 4, **options}).pairs(preference, identity, seed=0)


def test_each_estimator_is_the_one_it_is_named_after() -> None:
    preference, _, _ = group_of(4)
    included = pairs_of_four()
    assert included.first_rate == pytest.approx(self_included(preference)[included.first])
    excluded = pairs_of_four(win_rates="pair_excluded")
    first, second = pair_excluded(preference, excluded.first, excluded.second)
    assert (excluded.first_rate == first).all()
    assert (excluded.second_rate == second).all()
    labelled = pairs_of_four(win_rates="labels")
    assert labelled.first_rate - labelled.second_rate == pytest.approx(labelled.target - 0.5)
    assert (labelled.target >= 0.5).all()


def test_hard_labels_are_drawn_from_the_probability_by_the_seed() -> None:
    preference = np.array([[0.5, 0.8], [0.2, 0.5]])
    objective = build_objective("inpo", {"labels": "hard"})
    drawn = [objective.pairs(preference, "ab", seed) for seed in range(500)]
    assert all((pairs.first_rate - pairs.second_rate).tolist() == [0.5] for pairs in drawn)
    assert np.mean([pairs.first[0] == 0 for pairs in drawn]) == pytest.approx(0.8, abs=0.05)
    assert objective.pairs(preference, "ab", 7).first.tolist() == drawn[7].first.tolist()


def test_old_opponents_are_weighted_and_pairs_of_two_samples_by_both_members() -> None:
    preference, identity, log_ratios = group_of(6)
    objective = build_objective(
        "online_ipo", {"candidates": 2, "opponents": 4, "opponent_correction": "truncated", "weight_cap": 1.5}
    )
    pairs = objective.pairs(preference, identity, 0, log_ratios)
    weights = truncated_weights(log_ratios[2:], 1.5)
    rates = preference[:, 2:] @ weights / weights.sum()
    assert pairs.first_rate == pytest.approx(rates[pairs.first])
    assert pairs.weight.tolist() == [1.0]
    assert pairs.effective_opponents == pytest.approx(weights.sum() ** 2 / (weights**2).sum())

    two = build_objective("online_ipo", {"candidates": 6, "win_rates": "labels", "opponent_correction": "truncated"})
    pairs = two.pairs(preference, identity, 0, log_ratios)
    weights = truncated_weights(log_ratios, 2.0)
    assert pairs.weight == pytest.approx(weights[pairs.first] * weights[pairs.second])


@pytest.mark.parametrize("win_rates", ["opponents", "labels"])
def test_a_group_with_hardly_any_effective_opponent_has_weight_zero(win_rates: str) -> None:
    """One of eight opponents carries all: 1 < 8 / 4."""
    options: dict[str, Any] = {"win_rates": win_rates, "opponent_correction": "truncated", "weight_cap": 1e9}
    options |= {"candidates": 2, "opponents": 8} if win_rates == "opponents" else {"candidates": 8}
    objective = build_objective("online_ipo", options)
    preference, identity, _ = group_of(objective.sampling.candidates)
    log_ratios = np.full(len(identity), -15.0)
    even = objective.pairs(preference, identity, 0, log_ratios)
    assert (even.weight > 0.0).all()
    log_ratios[-1] = 15.0
    uneven = objective.pairs(preference, identity, 0, log_ratios)
    assert uneven.weight.tolist() == [0.0] * len(even)
    assert uneven.effective_opponents == pytest.approx(1.0)
    unknown = objective.pairs(preference, identity, 0)
    assert unknown.weight.tolist() == [1.0] * len(even)
    assert unknown.effective_opponents is None


def test_weights_of_two_samples_restore_the_opponent() -> None:
    """In expectation over pairs of an old policy, w_i w_j (P - 1/2) regresses to the win rates against the new."""
    game = uniform_game(4, beta=0.2, seed=0)
    old, new = (log_normalise(np.random.default_rng(seed).normal(size=4)) for seed in (1, 2))
    objective = build_objective(
        "online_ipo",
        {"candidates": 4, "win_rates": "labels", "opponent_correction": "truncated", "weight_cap": 1e6},
    )
    pairs = objective.pairs(game.preference, list(range(4)), 0, new - old)
    weight = pairs.weight * np.exp(old[pairs.first] + old[pairs.second])
    design = np.eye(4)[pairs.first] - np.eye(4)[pairs.second]
    root = np.sqrt(weight)
    labels = root * (pairs.first_rate - pairs.second_rate)
    fitted = np.linalg.lstsq(root[:, None] * design, labels, rcond=None)[0]
    wanted = game.win_rates(new)
    assert fitted - fitted.mean() == pytest.approx(wanted - wanted.mean(), abs=1e-12)


@given(st.integers(0, 10**6))
def test_best_and_worst_response_of_sppo(seed: int) -> None:
    preference, identity, _ = group_of(5, seed)
    rates = self_included(preference)
    pairs = build_objective("sppo", {}).pairs(preference, identity, 0)
    assert (pairs.first.tolist(), pairs.second.tolist()) == ([rates.argmax()], [rates.argmin()])
    assert (len(pairs), pairs.dropped) == (1, 0)
    every = build_objective("sppo", {"pair_choice": "all"}).pairs(preference, identity, 0)
    assert len(every) == 10


def test_sppo_never_pairs_identical_responses() -> None:
    preference, _, _ = group_of(5)
    pairs = build_objective("sppo", {}).pairs(preference, ["a"] * 5, 0)
    assert (len(pairs), pairs.dropped) == (0, 10)


def test_extrapolated_rates() -> None:
    preference, identity, _ = group_of(6)
    objective = build_objective("optimistic_egpo", {"opponents": 2, "extrapolation": 3.0})
    now, before = preference[:, 2:4].mean(axis=1), preference[:, 4:].mean(axis=1)
    rates = now + 3.0 * (now - before)
    pairs = objective.pairs(preference, identity, 0)
    assert (pairs.first_rate - pairs.second_rate)[0] == pytest.approx(abs(rates[0] - rates[1]))


def test_dno_prct_asks_for_a_margin_that_depends_on_the_winner() -> None:
    """Three own candidates and the teacher's: rates 0.65, 0.425, 0.2 and 0.725."""
    preference = np.array([[0.5, 0.8, 0.9, 0.4], [0.2, 0.5, 0.8, 0.2], [0.1, 0.2, 0.5, 0.0], [0.6, 0.8, 1.0, 0.5]])
    fixed = {"candidates": 3, "teacher_candidates": 1, "least_rate": 0.6}

    def chosen(**options: float) -> set[tuple[int, int]]:
        pairs = build_objective("dno_prct", {**fixed, **options}).pairs(preference, "abcd", 0)
        assert len(pairs) + pairs.dropped == 6
        return set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))

    assert chosen(margin=0.2, teacher_margin=0.4) == {(0, 1), (0, 2), (3, 2)}
    assert chosen(margin=0.2, teacher_margin=0.25) == {(0, 1), (0, 2), (3, 1), (3, 2)}
    assert chosen(margin=0.3, teacher_margin=0.4) == {(0, 2), (3, 2)}
    assert chosen(margin=0.2, teacher_margin=0.4, least_rate=0.7) == {(3, 2)}
    assert (0, 3) not in chosen(margin=0.01, teacher_margin=0.01)


def test_xpo_lowers_the_references_answer_whether_it_won_or_lost() -> None:
    objective = build_objective("xpo", {"alpha": 1e-2})
    without = build_objective("xpo", {"alpha": 0.0})
    for preference, place in (([[0.5, 0.9], [0.1, 0.5]], 1), ([[0.5, 0.2], [0.8, 0.5]], 0)):
        pairs = objective.pairs(np.array(preference), "ab", 0)
        assert [pairs.first[0], pairs.second[0]].index(1) == place
    lost = worked_pair()
    assert (objective.loss(lost) - without.loss(lost)).item() == pytest.approx(1e-2 * -14.0)
    won = replace(lost, first_index=lost.second_index, second_index=lost.first_index)
    assert (objective.loss(won) - without.loss(won)).item() == pytest.approx(1e-2 * -10.0)
