"""Several objectives at once: how a vector of rewards, [..., N], becomes the one that is maximised.

Rewards are meant to be on one scale (`ensembles.Standardisation`).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from algorithms.preference import FloatArray

Squash = Literal["sigmoid", "tanh"]

LARGEST_WEIGHT = 1.0 - 1e-6
"""Squashed multipliers stay below 1, also where floating point rounds them up: what is left belongs to the KL term."""


def directed(rewards: FloatArray, direction: npt.ArrayLike) -> FloatArray:
    """v . r with the unit vector v along `direction` [N], [..., N] -> [...]. Directional preference, 2402.18571.

    Raises: ValueError when the direction has no length.
    """
    vector = np.asarray(direction, dtype=np.float64)
    length = np.linalg.norm(vector)
    if not length > 0:
        raise ValueError(f"a preference direction has a length, got {vector.tolist()}")
    return np.asarray(rewards @ (vector / length))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Multipliers:
    """Lagrange multipliers lambda [N] of constrained RLHF with the velocity [N] of their optimiser.

    Constraints J_i >= theta_i (sigmoid, mu-PPO) or J_i = theta_i (tanh, xi-PPO, whose weights may turn negative and
    push an over-optimised reward down). Moskovitz et al. 2310.04373.
    """

    values: FloatArray
    velocity: FloatArray

    @classmethod
    def start(cls, count: int) -> "Multipliers":
        """All zero, so the first weights are 1/2 (sigmoid) or 0 (tanh); the paper draws them from N(0, 0.01^2)."""
        return cls(values=np.zeros(count), velocity=np.zeros(count))

    def weights(self, squash: Squash) -> FloatArray:
        """w_i = g(lambda_i), [N]."""
        squashed = expit(self.values) if squash == "sigmoid" else np.tanh(self.values)
        return np.minimum(squashed, LARGEST_WEIGHT)

    def updated(
        self, returns: npt.ArrayLike, thresholds: npt.ArrayLike, squash: Squash, learning_rate: float, momentum: float
    ) -> "Multipliers":
        """One step of SGD with momentum on sum_i g(lambda_i) (J_i - theta_i): a weight falls while J_i > theta_i.

        `returns`: the round's mean rewards J [N]; `thresholds`: theta [N].
        """
        squashed = expit(self.values) if squash == "sigmoid" else np.tanh(self.values)
        slope = squashed * (1.0 - squashed) if squash == "sigmoid" else 1.0 - squashed**2
        gradient = slope * (np.asarray(returns, dtype=np.float64) - np.asarray(thresholds, dtype=np.float64))
        velocity = momentum * self.velocity + gradient
        return Multipliers(values=self.values - learning_rate * velocity, velocity=velocity)


def constrained(rewards: FloatArray, weights: FloatArray) -> FloatArray:
    """sum_i w_i r_i / (N - sum_i w_i), [..., N] -> [...], for weights [N] below 1.

    The paper's advantage is (N - sum w) A_KL + sum_i w_i A_i. A loss whose KL term has a fixed coefficient has the
    same optimum when the rewards are divided by the coefficient that the KL term should have.
    """
    return np.asarray(rewards @ weights / (len(weights) - weights.sum()))


def pama(advantages: FloatArray) -> tuple[FloatArray, FloatArray]:
    """PAMA: s = sum_i c_i A_i of least magnitude over the simplex, and c. He and Maghsudi 2508.07768, theorem 1.

    [..., N] -> s [...] and c [..., N]. s is the projection of 0 on [min_i A_i, max_i A_i]: 0 where objectives
    conflict, the least where all agree on better, the greatest where all agree on worse. (With advantages that were
    clipped at 0, as the paper's Noon PPO has them, s = min_i A_i: only the worst objective counts.)
    """
    low, high = advantages.min(axis=-1), advantages.max(axis=-1)
    value = np.clip(0.0, low, high)
    spread = np.where(high > low, high - low, 1.0)
    on_high = np.where(high > low, (value - low) / spread, 0.0)
    weights = np.zeros_like(advantages)
    np.put_along_axis(weights, advantages.argmin(axis=-1)[..., None], (1.0 - on_high)[..., None], axis=-1)
    highest = advantages.argmax(axis=-1)[..., None]
    before = np.take_along_axis(weights, highest, axis=-1)
    np.put_along_axis(weights, highest, before + on_high[..., None], axis=-1)
    return value, weights
