"""Every option of every objective changes what it does, and what cannot be is refused in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic_core import PydanticUndefined

from algorithms.objective import OBJECTIVES, Objective, build_objective
from tests.algorithms.objectives.groups import group_of
from tests.algorithms.pair_examples import random_pairs, worked_pair

NEW_VALUES: dict[str, Any] = {
    "alpha": 0.3,
    "beta": 0.05,
    "candidates": 6,
    "divergence": "forward_kl",
    "alternate": True,
    "extrapolation": 3.0,
    "huber_delta": 0.5,
    "importance_weights": "none",
    "iteration": 4,
    "label_smoothing": 0.1,
    "labels": "hard",
    "least_rate": 0.7,
    "length_averaged": True,
    "link": "huber",
    "loss": "regression",
    "margin": 0.25,
    "mixture": 0.3,
    "momentum": 0.2,
    "odds_weight": 0.3,
    "opponent_correction": "truncated",
    "opponent_staleness": 2,
    "opponents": 3,
    "pair_choice": "all",
    "pair_sampler": "reference",
    "pair_temperature": 2.0,
    "pair_top_k": 10,
    "replay": (0.2,),
    "rewards": "log_odds",
    "sft": "sum",
    "sft_weight": 0.5,
    "smoothing": "robust",
    "step_size": 2.0,
    "target_clip": 0.01,
    "targets": "soft",
    "teacher_candidates": 1,
    "teacher_margin": 0.01,
    "weight_cap": 1.5,
    "win_rates": "pair_excluded",
}
# What an option needs beside it to have a meaning.
NEEDS: dict[str, dict[str, Any]] = {
    "huber_delta": {"link": "huber"},
    "labels": {"win_rates": "labels"},
    "opponent_correction": {"win_rates": "opponents", "opponents": 4},
    "weight_cap": {"win_rates": "opponents", "opponents": 4, "opponent_correction": "truncated"},
    "opponents": {"win_rates": "opponents"},
    "pair_sampler": {"win_rates": "opponents"},
    "pair_temperature": {"win_rates": "opponents"},
    "pair_top_k": {"win_rates": "opponents"},
    "win_rates": {"candidates": 5},
    "smoothing": {"label_smoothing": 0.1},
    "sft": {"sft_weight": 0.5},
    "teacher_margin": {"teacher_candidates": 1, "least_rate": 0.0, "margin": 0.01},
    "least_rate": {"least_rate": 0.2, "margin": 0.01},
    "margin": {"least_rate": 0.0, "margin": 0.01},
}
EXCEPTIONS: dict[tuple[str, str], tuple[Any, dict[str, Any]]] = {
    ("online_dpo", "link"): ("hinge", {}),
    ("online_dpo", "alpha"): (0.3, {"divergence": "alpha"}),
    ("online_dpo", "pair_choice"): ("all", {"candidates": 4}),
    ("online_dpo", "margin"): (0.25, {"link": "simpo"}),
    ("online_dpo", "odds_weight"): (0.3, {"link": "orpo"}),
    ("dno", "link"): ("huber", {"loss": "regression"}),
    ("dno", "huber_delta"): (0.5, {"loss": "regression", "link": "huber"}),
    ("dno", "target_clip"): (0.01, {"loss": "regression"}),
    ("sppo", "opponent_correction"): ("truncated", {"win_rates": "opponents", "opponents": 4, "pair_choice": "all"}),
    ("sppo", "weight_cap"): (
        1.5,
        {"win_rates": "opponents", "opponents": 4, "pair_choice": "all", "opponent_correction": "truncated"},
    ),
    ("sppo", "win_rates"): ("opponents", {}),
    ("sppo", "opponents"): (3, {"win_rates": "opponents"}),
    ("inpo", "step_size"): (2.0, {}),
    ("spo", "weight_cap"): (1.5, {}),
    ("nash_md", "weight_cap"): (1.5, {}),
}
# Inherited options that these objectives refuse; see below.
REFUSED = {("egpo", "opponent_staleness"), ("onpo", "opponent_correction"), ("onpo", "weight_cap"), ("sppo", "labels")}


def cases() -> list[tuple[str, str]]:
    return [
        (name, option)
        for name in OBJECTIVES
        for option in build_objective(name, {}).Options.model_fields
        if (name, option) not in REFUSED
    ]


def fingerprint(objective: Objective) -> list[Any]:
    """All that an objective tells the learner about a fixed group and fixed pairs."""
    preference, identity, log_ratios = group_of(objective.sampling.candidates)
    pairs = objective.pairs(preference, identity, 3, log_ratios if objective.corrects_opponents else None)
    return [
        objective.sampling,
        objective.update,
        objective.anchor,
        objective.corrects_opponents,
        pairs.first.tolist(),
        pairs.second.tolist(),
        pairs.first_rate.tolist(),
        pairs.second_rate.tolist(),
        pairs.weight.tolist(),
        objective.loss(random_pairs()).tolist(),
    ]


@pytest.mark.parametrize(("name", "option"), cases())
def test_every_option_changes_something(name: str, option: str) -> None:
    value, needs = EXCEPTIONS.get((name, option), (NEW_VALUES[option], NEEDS.get(option, {})))
    known = build_objective(name, {}).Options.model_fields
    needs = {key: needed for key, needed in needs.items() if key in known}
    assert known[option].default is not PydanticUndefined
    before, after = build_objective(name, needs), build_objective(name, {**needs, option: value})
    assert fingerprint(before) != fingerprint(after)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_is_stateless_and_says_what_its_roles_tolerate(name: str) -> None:
    objective = build_objective(name, {})
    assert fingerprint(objective) == fingerprint(build_objective(name, {}))
    assert "old" in objective.staleness_tolerance or "age" in objective.staleness_tolerance
    assert objective.reward_scale > 0.0
    for version in range(4):
        for role in objective.sampling.roles:
            objective.update.newest(role.policy_at(version), version)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_weights_and_rates_match_the_pairs_and_identical_candidates_make_none(name: str) -> None:
    objective = build_objective(name, {})
    count = objective.sampling.candidates
    preference, _, _ = group_of(count)
    pairs = objective.pairs(preference, ["same"] * count, 0)
    assert len(pairs.first_rate) == len(pairs.second_rate) == len(pairs.weight) == len(pairs)
    assert (pairs.first_rate >= pairs.second_rate).all()
    policy_gradients = ("spo", "nash_md")
    assert (len(pairs) == 0) == (name not in policy_gradients)


@pytest.mark.parametrize(
    ("name", "options", "fields", "expected"),
    [
        ("online_ipo", {}, {"first_rate": 0.6, "second_rate": 0.3}, 0.0),
        ("egpo", {}, {"first_rate": 0.6, "second_rate": 0.4}, 1.0),
        ("copg", {}, {"first_rate": 1.0, "second_rate": 0.2}, 0.25),
        (
            "inpo",
            {"step_size": 2.0, "beta": 1 / 6},
            {"anchor_first": -11 / 3 - 10.4 * 2 / 3, "anchor_second": -12 / 3 - 13.1 * 2 / 3} | {"first_rate": 1.0},
            0.7511111111,
        ),
        ("onpo", {"step_size": 4.0}, {"first_rate": 0.75, "second_rate": 0.25}, 1.0),
        ("sppo", {}, {"first_rate": 0.7, "second_rate": 0.2}, 1.0),
        ("dno", {}, {"first_rate": 0.7, "second_rate": 0.4}, 0.6820224894),
        ("dno", {"loss": "regression"}, {"first_rate": 0.7, "second_rate": 0.4}, 0.0),
        ("dno_prct", {}, {}, 0.5543552445),
        ("xpo", {"alpha": 1e-2}, {}, 0.4143552445),
        ("online_ipo", {"target_clip": 2.0}, {"first_rate": 0.9, "second_rate": 0.3}, 1.0),
        ("online_ipo", {"link": "huber", "huber_delta": 0.5}, {"first_rate": 0.6, "second_rate": 0.5}, 1.75),
        ("online_ipo", {"link": "huber", "huber_delta": 5.0}, {"first_rate": 0.6, "second_rate": 0.5}, 4.0),
        ("online_ipo", {"length_averaged": True}, {"first_rate": 0.545, "second_rate": 0.5}, 0.0),
    ],
)
def test_worked_values(name: str, options: dict[str, Any], fields: dict[str, float], expected: float) -> None:
    loss = build_objective(name, options).loss(worked_pair(**fields))
    assert loss.item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("inpo", {"beta": 0.5}, r"inpo needs step_size \* beta <= 1, got 3 \* 0.5 = 1.5; take step_size <= 2"),
        ("egpo", {"opponent_staleness": 1}, "opponent_staleness = 1 is not for egpo"),
        ("egpo", {"candidates": 1}, "candidates"),
        ("egpo", {"beta": 0.0}, "beta"),
        ("egpo", {"beta": float("nan")}, "beta"),
        ("egpo", {"step_size": 1.0}, "unknown option 'step_size'"),
        ("egpo", {"win_rates": "labels"}, "unknown option 'win_rates'"),
        ("egpo", {"huber_delta": 2.0}, "huber_delta is read by link 'huber'"),
        ("dno", {"win_rates": "pair_excluded", "candidates": 2}, "needs candidates >= 3, got 2"),
        ("dno", {"win_rates": "leave_one_out"}, "win_rates"),
        ("dno", {"pair_temperature": 2.0}, "pair_temperature = 2.0 needs win_rates 'opponents'"),
        ("dno", {"target_clip": 1.0}, "read by loss 'regression'"),
        ("dno", {"link": "huber"}, "read by loss 'regression'"),
        ("inpo", {"pair_sampler": "reference"}, "pair_sampler = reference needs win_rates 'opponents'"),
        ("sppo", {"win_rates": "labels"}, "sppo needs win rates of single responses"),
        ("sppo", {"win_rates": "pair_excluded"}, "'pair_excluded' gives those of pairs"),
        ("online_ipo", {"labels": "hard"}, "needs win_rates 'labels', not 'opponents'"),
        ("online_ipo", {"weight_cap": 3.0}, "weight_cap = 3.0 needs opponent_correction 'truncated'"),
        ("online_ipo", {"opponent_correction": "truncated"}, "needs opponents >= 2"),
        ("sppo", {"opponent_correction": "truncated"}, "not for 'self_included'"),
        (
            "sppo",
            {"opponent_correction": "truncated", "win_rates": "opponents", "opponents": 4},
            "needs pair_choice 'all'",
        ),
        ("inpo", {"opponent_correction": "truncated", "iteration": 4}, "with iteration = 4"),
        ("onpo", {"weight_cap": 3.0}, "needs opponent_correction 'truncated'"),
        ("sppo", {"labels": "hard"}, "needs win_rates 'labels', not 'self_included'"),
        ("onpo", {"opponent_correction": "truncated"}, "onpo's opponents are those of its other policy"),
        ("dno_prct", {"replay": (0.6, 0.5)}, "sum below 1"),
        ("dno_prct", {"replay": (-0.1,)}, "shares of a batch"),
        ("online_ipo", {"momentum": 1.0}, "momentum"),
        ("onpo", {"momentum": 0.3}, "unknown option 'momentum'"),
    ],
)
def test_impossible_options_are_refused_in_words(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_objective(name, options)


def roles(name: str, **options: Any) -> list[tuple[str, int, tuple[str, ...], int | None]]:
    plan = build_objective(name, options).sampling
    return [(role.name, role.count, role.policies, role.staleness) for role in plan.roles]


def test_pairs_are_loose_and_opponents_tight_unless_pairs_are_the_opponents() -> None:
    assert roles("egpo") == [("pair", 2, ("current",), None), ("opponent", 1, ("current", "half"), 0)]
    assert roles("egpo", alternate=True) == [("pair", 2, ("latest",), None), ("opponent", 1, ("latest",), 0)]
    assert roles("past_egpo") == [("pair", 2, ("half",), None), ("opponent", 1, ("half",), 0)]
    assert roles("optimistic_egpo", opponents=2, opponent_staleness=3) == [
        ("pair", 2, ("current",), None),
        ("opponent", 2, ("current",), 3),
        ("opponent", 2, ("previous(1)",), 3),
    ]
    assert roles("online_ipo", win_rates="labels", opponent_staleness=2) == [("pair", 2, ("current",), 2)]
    assert roles("inpo", opponent_staleness=16) == [("pair", 2, ("current",), 16)]
    assert roles("inpo", win_rates="opponents", iteration=8) == [
        ("pair", 2, ("iterate",), None),
        ("opponent", 1, ("iterate",), 0),
    ]
    assert roles("onpo") == [("pair", 2, ("half",), 0)]
    assert roles("dno_prct", teacher_candidates=1) == [
        ("pair", 5, ("current",), None),
        ("pair", 1, ("teacher",), None),
    ]
    assert roles("xpo") == [("pair", 1, ("current",), None), ("pair", 1, ("reference",), None)]
    assert roles("egpo", pair_sampler="reference")[0] == ("pair", 2, ("reference",), None)


def test_pairs_of_a_group_with_opponents_are_among_the_pair_candidates_only() -> None:
    objective = build_objective("online_ipo", {"candidates": 3, "opponents": 2})
    preference, identity, _ = group_of(5)
    pairs = objective.pairs(preference, identity, 0)
    assert set(pairs.first) | set(pairs.second) == {0, 1, 2}
    rates = preference[:, 3:].mean(axis=1)
    assert np.allclose(pairs.first_rate, rates[pairs.first])
    assert np.allclose(pairs.second_rate, rates[pairs.second])
