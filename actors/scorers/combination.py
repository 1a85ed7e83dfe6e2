"""How the verdicts of a panel's members become one preference matrix: each rule of `actors.scorers.config`."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actors.scorers.base import ScorerError
from actors.scorers.config import (
    Combination,
    Direction,
    Lagrangian,
    Majority,
    Mean,
    Pama,
    RewardRule,
    Uncertainty,
    Weighted,
    WorstCase,
)
from actors.scorers.state import ScoringState
from algorithms import ensembles, reward_weights
from algorithms.preference import FloatArray, antisymmetric, majority


def check_members(rule: Combination, members: Sequence[str], rewarding: Sequence[str]) -> None:
    """Raise `ScorerError` unless a rule of rewards has only members that give one, and a number for each it weighs."""
    pairwise = [name for name in members if name not in rewarding]
    if isinstance(rule, RewardRule) and pairwise:
        raise ScorerError(
            f"scoring.combine: {rule.rule} makes one reward of several, and {pairwise[0]} compares pairs; combine it "
            "by majority or weighted"
        )
    for key in ("weights", "direction", "thresholds"):
        numbers = getattr(rule, key, members)
        if len(numbers) != len(members):
            raise ScorerError(
                f"scoring.combine.{key} has {len(numbers)} numbers, and the panel's members are {', '.join(members)}; "
                "give one for each, in this order"
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Combined:
    """The panel's matrix [K, K]; those of the members [M, K, K] on the scale that the rule compares them on; and the
    weight [M] of each, where a rule weighs objectives."""

    preference: FloatArray
    members: FloatArray
    weights: FloatArray | None = None


def combined(rule: Combination, matrices: FloatArray, rewards: FloatArray | None, state: ScoringState) -> Combined:
    """Apply a rule to members' matrices [M, K, K], or to their rewards [K, M] in their own units.

    Raises: `ScorerError` when the state lacks what the rule needs.
    """
    match rule:
        case Majority():
            return Combined(preference=matrices[0] if len(matrices) == 1 else majority(matrices), members=matrices)
        case Weighted():
            mean = antisymmetric(np.average(matrices, axis=0, weights=rule.weights))
            return Combined(preference=mean, members=matrices)
    assert rewards is not None
    scaled = _scaled(rule, rewards, state)
    reward, weights = _one_reward(rule, scaled, state)
    return Combined(
        preference=ensembles.bradley_terry(reward, rule.temperature),
        members=np.stack([ensembles.bradley_terry(column, rule.temperature) for column in scaled.T]),
        weights=weights,
    )


def _one_reward(rule: RewardRule, rewards: FloatArray, state: ScoringState) -> tuple[FloatArray, FloatArray | None]:
    """[K, M] -> the reward [K] that is maximised, and the weights [M]."""
    match rule:
        case Mean():
            return ensembles.mean(rewards), None
        case WorstCase():
            return ensembles.worst_case(rewards), None
        case Uncertainty():
            return ensembles.uncertainty_weighted(rewards, rule.penalty), None
        case Direction():
            return reward_weights.directed(rewards, rule.direction), None
        case Lagrangian():
            assert state.multipliers is not None
            weights = state.multipliers.weights(rule.squash)
            return reward_weights.constrained(rewards, weights), weights
        case Pama():
            # An advantage of a completion is its distance to the mean over the completions of the same prompt.
            value, shares = reward_weights.pama(rewards - rewards.mean(axis=0))
            return value, shares.mean(axis=0)
    raise AssertionError(rule)


def _scaled(rule: RewardRule, rewards: FloatArray, state: ScoringState) -> FloatArray:
    if not rule.standardise:
        return rewards
    if state.standardisation is None:
        raise ScorerError(
            f"combine {rule.rule} standardises its members on answers of the policy that training starts from, and "
            "there are none here; set standardise: false, or score within a run"
        )
    return state.standardisation.apply(rewards)
