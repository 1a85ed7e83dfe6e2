"""Several rewards of the same completions become one; how far the members of a panel disagree.

The last axis holds the M members. Worst case and variance compare members with each other, so they need one scale:
standardise first, on completions of the policy that training starts from. Coste et al. 2310.02743, section 3.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from algorithms.preference import FloatArray, antisymmetric


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Standardisation:
    """Mean and standard deviation of each member, both [M], over the samples that define its scale."""

    mean: FloatArray
    deviation: FloatArray

    @classmethod
    def of(cls, samples: npt.ArrayLike) -> "Standardisation":
        """Statistics of samples [n, M]; the variance is the population's, 1/n.

        Raises: ValueError for a member that gave the same reward to every sample, which has no scale.
        """
        rewards = np.asarray(samples, dtype=np.float64)
        found = cls(mean=rewards.mean(axis=0), deviation=rewards.std(axis=0))
        # Rounding may leave a constant with a deviation of an ulp of its mean.
        constant = np.flatnonzero(found.deviation <= 1e-12 * np.maximum(1.0, np.abs(found.mean)))
        if len(constant):
            raise ValueError(f"member {constant[0]} gave {rewards[0, constant[0]]:g} to each of {len(rewards)} samples")
        return found

    def apply(self, rewards: npt.ArrayLike) -> FloatArray:
        """[..., M] -> [..., M] with mean 0 and variance 1 over the samples."""
        return np.asarray((np.asarray(rewards, dtype=np.float64) - self.mean) / self.deviation)


def mean(rewards: FloatArray) -> FloatArray:
    """Mean of the members, [..., M] -> [...]."""
    return np.asarray(rewards.mean(axis=-1))


def worst_case(rewards: FloatArray) -> FloatArray:
    """WCO: the least reward of any member, [..., M] -> [...]. Eq. 3."""
    return np.asarray(rewards.min(axis=-1))


def uncertainty_weighted(rewards: FloatArray, penalty: float) -> FloatArray:
    """UWO: mean - penalty * variance over the members, [..., M] -> [...]. Eq. 4.

    The variance is the population's, 1/M, as in the paper and its best-of-n code (its PPO code has 1/(M - 1)).
    """
    return np.asarray(rewards.mean(axis=-1) - penalty * rewards.var(axis=-1))


def bradley_terry(rewards: FloatArray, temperature: float = 1.0) -> FloatArray:
    """P_ij = sigma((r_i - r_j) / temperature), rewards [K] -> [K, K], exactly antisymmetric.

    Raises: InvalidPreference for a reward that is not finite.
    """
    return antisymmetric(expit(np.subtract.outer(rewards, rewards) / temperature))


def disagreement(matrices: npt.ArrayLike) -> float:
    """Mean over the pairs i < j of the population standard deviation of the members' P_ij, [M, K, K].

    0 where all members say the same, 1/2 where half of them are certain of each side.
    """
    members = np.asarray(matrices, dtype=np.float64)
    upper = np.triu_indices(members.shape[1], 1)
    return float(members.std(axis=0)[upper].mean()) if len(upper[0]) else 0.0
