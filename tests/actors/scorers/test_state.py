"""What scoring remembers: one scale from the start's answers, weights that change once a round, both saved exactly."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from actors.records import GroupSummary, ScoringFigures, summarise
from actors.scorer import ScorerError
from actors.scorers.config import ScoringConfig
from actors.scorers.state import ScoringRounds
from algorithms.reward_weights import Multipliers
from tests.examples import group

NAMES = ("warmth", "brevity")
LAGRANGIAN = {"rule": "lagrangian", "thresholds": [1.0, 2.0], "learning_rate": 0.5, "momentum": 0.3}


def rounds(combine: Any) -> ScoringRounds:
    panel = [{"reward": "tests.scripted_rewards:length"}, {"reward": "tests.scripted_rewards:exclamation"}]
    return ScoringRounds(ScoringConfig.model_validate({"panel": panel, "combine": combine}))


def scored(*rewards: float, **figures: Any) -> GroupSummary:
    found = ScoringFigures(rewards=tuple(zip(NAMES, rewards, strict=False)), **figures)
    return replace(summarise(group(0, [1], [[2]])), scoring=found)


async def taken(state: ScoringRounds) -> Any:
    return await asyncio.wait_for(state.state(), 0.01)


@pytest.mark.parametrize("combine", ["majority", {"rule": "mean", "standardise": False}])
def test_what_needs_no_scale_does_not_wait_for_one(combine: Any) -> None:
    state = rounds(combine)
    assert state.calibrated
    assert asyncio.run(taken(state)).standardisation is None


def test_what_needs_a_scale_waits_for_it() -> None:
    state = rounds("worst_case")
    with pytest.raises(TimeoutError):
        asyncio.run(taken(state))
    samples = np.array([[1.0, 10.0], [3.0, 50.0]])
    state.calibrate(samples, NAMES)
    scale = asyncio.run(taken(state)).standardisation
    np.testing.assert_allclose(scale.apply(samples), [[-1, -1], [1, 1]])


def test_a_scale_that_cannot_be_is_refused_by_the_members_name() -> None:
    with pytest.raises(ScorerError, match=r"members warmth, brevity .* member 1 gave 3 to each of 2 samples; leave it"):
        rounds("mean").calibrate(np.array([[1.0, 3.0], [2.0, 3.0]]), NAMES)
    with pytest.raises(ScorerError, match="none of the start's answers could be scored"):
        rounds("mean").calibrate(np.empty((0, 2)), NAMES)


def test_a_round_moves_the_weights_by_its_mean_rewards_once() -> None:
    state = rounds(LAGRANGIAN)
    state.calibrate(np.array([[1.0, 10.0], [3.0, 50.0]]), NAMES)
    expected = Multipliers.start(2)
    for means in ([4.0, 1.0], [0.0, 0.0]):
        state.trained([scored(means[0] - 1, means[1] - 2), scored(means[0] + 1, means[1] + 2)])
        expected = expected.updated(means, [1.0, 2.0], "sigmoid", 0.5, 0.3)
        found = asyncio.run(taken(state)).multipliers
        np.testing.assert_allclose(found.values, expected.values)
        np.testing.assert_allclose(found.velocity, expected.velocity)


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped() -> None:
    state = rounds(LAGRANGIAN)
    state.calibrate(np.random.default_rng(0).normal(size=(9, 2)), NAMES)
    state.trained([scored(0.1, 0.7)])
    resumed = rounds(LAGRANGIAN)
    resumed.resume(json.loads(json.dumps(state.snapshot())))
    assert resumed.calibrated
    for one in (state, resumed):
        one.trained([scored(0.3, 0.2)])
    assert resumed.snapshot() == state.snapshot()


def test_a_run_that_stopped_before_it_had_a_scale_still_waits_for_it() -> None:
    resumed = rounds("mean")
    resumed.resume(json.loads(json.dumps(rounds("mean").snapshot())))
    assert not resumed.calibrated


def test_the_figures_of_a_round_are_means_and_sums() -> None:
    weights = (("warmth", 0.25), ("brevity", 0.5))
    found = rounds("pama").trained(
        [
            scored(1.0, 2.0, disagreement=0.1, calls=4, cached=1, cut=2, weights=weights),
            scored(3.0, 8.0, disagreement=0.3, calls=6, cut=0, weights=weights),
        ]
    )
    assert found == {
        "disagreement": pytest.approx(0.2),
        "judge_calls": 10.0,
        "judge_calls_cached": 1.0,
        "inputs_cut": 2.0,
        "reward/warmth": 2.0,
        "reward/brevity": 5.0,
        "weight/warmth": 0.25,
        "weight/brevity": 0.5,
    }
    assert rounds("majority").trained([summarise(group(0, [1], [[2]]))]) == {}
