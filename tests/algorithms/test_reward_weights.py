"""Several objectives: a direction, Lagrangian weights that find their constraints, and PAMA's closed form."""

import numpy as np
import pytest
from scipy.special import softmax

from algorithms.preference import FloatArray
from algorithms.reward_weights import Multipliers, Squash, constrained, directed, pama

# Two objectives in conflict, and answers that are good in one, in both by half, or in none.
ARMS = np.array([[1.0, 0.0], [0.7, 0.7], [0.0, 1.0], [0.0, 0.0]])
KL_COEFFICIENT = 0.2


def optimum(rewards: FloatArray) -> FloatArray:
    """J_i of the policy that maximises reward - KL_COEFFICIENT * KL to the uniform policy, over ARMS."""
    return np.asarray(softmax(rewards / KL_COEFFICIENT) @ ARMS)


def played(thresholds: list[float], squash: Squash, rounds: int = 4000) -> tuple[FloatArray, FloatArray]:
    """Returns and weights after so many rounds, each with the policy that is best for the weights."""
    state = Multipliers.start(2)
    for _ in range(rounds):
        returns = optimum(constrained(ARMS, state.weights(squash)))
        state = state.updated(returns, thresholds, squash, learning_rate=0.1, momentum=0.1)
    weights = state.weights(squash)
    return optimum(constrained(ARMS, weights)), weights


def test_a_direction_is_a_unit_vector() -> None:
    rewards = np.array([[1.0, 2.0], [4.0, -2.0]])
    np.testing.assert_allclose(directed(rewards, [3.0, 4.0]), [2.2, 0.8])
    np.testing.assert_allclose(directed(rewards, [30.0, 40.0]), directed(rewards, [3.0, 4.0]))
    np.testing.assert_allclose(directed(rewards, [1.0, 0.0]), rewards[:, 0])
    with pytest.raises(ValueError, match="has a length"):
        directed(rewards, [0.0, 0.0])


def test_the_first_weights_are_those_of_zero_multipliers() -> None:
    assert Multipliers.start(3).weights("sigmoid").tolist() == [0.5, 0.5, 0.5]
    assert Multipliers.start(3).weights("tanh").tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("squash", ["sigmoid", "tanh"])
def test_a_step_is_the_gradient_of_the_multiplier_loss(squash: Squash) -> None:
    state = Multipliers(values=np.array([0.3, -0.8]), velocity=np.zeros(2))
    gap = np.array([0.5, -0.25])
    after = state.updated(gap, [0.0, 0.0], squash, learning_rate=1.0, momentum=0.0)
    step = 1e-6
    for i in range(2):
        moved = [np.where(np.arange(2) == i, state.values + side * step, state.values) for side in (1, -1)]
        losses = [Multipliers(values=m, velocity=state.velocity).weights(squash) @ gap for m in moved]
        assert state.values[i] - after.values[i] == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=1e-6)


def test_a_weight_falls_while_its_constraint_is_exceeded() -> None:
    state = Multipliers.start(2).updated([0.9, 0.1], [0.5, 0.5], "sigmoid", 0.1, 0.0)
    first, second = state.weights("sigmoid")
    assert first < 0.5 < second


def test_momentum_repeats_a_share_of_the_step_before() -> None:
    once = Multipliers.start(1).updated([1.0], [0.0], "tanh", 0.1, 0.5)
    still = once.updated([0.0], [0.0], "tanh", 0.1, 0.5)
    np.testing.assert_allclose(still.values - once.values, 0.5 * once.values)


@pytest.mark.parametrize("thresholds", [[0.45, 0.55], [0.3, 0.4], [0.6, 0.5]])
def test_equality_constraints_are_met(thresholds: list[float]) -> None:
    returns, _ = played(thresholds, "tanh")
    np.testing.assert_allclose(returns, thresholds, atol=0.01)


def test_an_over_optimised_reward_gets_a_negative_weight() -> None:
    """The uniform policy already has J = 0.425 in both: to stay below that, tanh has to push down."""
    returns, weights = played([0.25, 0.6], "tanh")
    np.testing.assert_allclose(returns, [0.25, 0.6], atol=0.01)
    assert weights[0] < 0 < weights[1]


def test_inequality_constraints_may_be_exceeded_and_never_turn_negative() -> None:
    returns, weights = played([0.2, 0.6], "sigmoid", rounds=20000)
    assert returns[0] > 0.2
    assert 0.0 <= weights[0] < 0.05
    assert returns[1] == pytest.approx(0.6, abs=0.02)


def test_dividing_by_the_kl_coefficient_keeps_the_optimum() -> None:
    weights = np.array([0.6, 0.3])
    coefficient = len(weights) - weights.sum()
    papers = softmax(ARMS @ weights / (coefficient * KL_COEFFICIENT)) @ ARMS
    np.testing.assert_allclose(optimum(constrained(ARMS, weights)), papers)


@pytest.mark.parametrize("squash", ["sigmoid", "tanh"])
def test_saturated_weights_leave_something_to_the_kl_term(squash: Squash) -> None:
    weights = Multipliers(values=np.array([500.0, 900.0]), velocity=np.zeros(2)).weights(squash)
    assert np.isfinite(constrained(ARMS, weights)).all()


@pytest.mark.parametrize(
    ("advantages", "value", "weights"),
    [
        ([0.5, 2.0, 1.0], 0.5, [1.0, 0.0, 0.0]),
        ([-0.5, -2.0, -1.0], -0.5, [1.0, 0.0, 0.0]),
        ([-1.0, 3.0, 0.5], 0.0, [0.75, 0.25, 0.0]),
        ([0.0, 4.0], 0.0, [1.0, 0.0]),
        ([2.0, 2.0], 2.0, [1.0, 0.0]),
        ([0.0, 0.0], 0.0, [1.0, 0.0]),
    ],
)
def test_pama_by_hand(advantages: list[float], value: float, weights: list[float]) -> None:
    found, found_weights = pama(np.array(advantages))
    assert found == value
    assert found_weights.tolist() == weights


def test_pama_is_the_convex_combination_of_least_magnitude() -> None:
    generator = np.random.default_rng(0)
    advantages = generator.normal(size=(200, 3)) + generator.normal(size=(200, 1))
    value, weights = pama(advantages)
    np.testing.assert_allclose((weights * advantages).sum(axis=1), value, atol=1e-12)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)
    assert (weights >= 0).all()
    grid = generator.dirichlet(np.ones(3), size=500)
    assert (np.abs(advantages @ grid.T) >= np.abs(value)[:, None] - 1e-12).all()


def test_with_clipped_advantages_pama_sees_the_worst_objective_only() -> None:
    advantages = np.maximum(np.random.default_rng(1).normal(size=(50, 4)), 0.0)
    np.testing.assert_array_equal(pama(advantages)[0], advantages.min(axis=1))
