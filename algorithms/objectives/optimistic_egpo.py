"""Optimistic mirror descent: one rollout phase and one backward pass an update. Our derivation, from EGPO (2503.08942).

    L(theta) = E_{y, y' ~ rho} ( h(y, y') - [r(y) - r(y')] / beta )^2,   h against the reference
    r = r_t + k (r_t - r_{t-1}),   r_t(y) = P(y > current), r_{t-1}(y) = P(y > previous(1))

The extrapolated win rates stand for those against the policy that is about to be. `extrapolation` k = 1 is optimism
with fresh opponents. With opponents d updates old (`opponent_staleness` d) both snapshots are d older, and k = d + 1
undoes the delay to first order and is optimistic by one step: delay-compensated optimism, which works while
eta s (d + 1) stays below about 1/2 (s: rotation rate of the game, `algorithms/games/stability.py`) and amplifies label
noise by about 2k + 1. Rates may leave [0, 1]; they are targets, not probabilities.
"""

from typing import ClassVar

import numpy as np
from pydantic import Field

from algorithms import win_rates
from algorithms.objective import Options
from algorithms.objectives.anchored_regression import AnchoredRegression, RegressionOptions
from algorithms.preference import FloatArray
from algorithms.sampling import Role, SamplingPlan


class OptimisticEGPOOptions(RegressionOptions):
    """`beta`: temperature of the game. `extrapolation`: k, in updates. `opponents`: of each of the two snapshots."""

    beta: float = Field(default=0.1, gt=0.0, allow_inf_nan=False)
    extrapolation: float = Field(default=1.0, ge=0.0, allow_inf_nan=False)


class OptimisticEGPO(AnchoredRegression[OptimisticEGPOOptions]):
    """Optimistic mirror descent; see the module."""

    Options: ClassVar[type[Options]] = OptimisticEGPOOptions
    name: ClassVar[str] = "optimistic_egpo"
    staleness_tolerance: ClassVar[str] = (
        "Pairs may be of any age: they cost only coverage. Opponents may be d updates old if all are equally old and "
        "`extrapolation` is d + 1."
    )

    @property
    def scale(self) -> float:
        return 1.0 / self.options.beta

    @property
    def sampling(self) -> SamplingPlan:
        options = self.options
        before = Role(
            name="opponent", count=options.opponents, policies=("previous(1)",), staleness=options.opponent_staleness
        )
        return SamplingPlan(roles=(self.pair_role, self.opponent_role, before))

    def rates(self, preference: FloatArray) -> FloatArray:
        """Extrapolated win rates of all candidates, [K, K] -> [K]."""
        newest, previous = np.split(np.arange(self.options.candidates, len(preference)), 2)
        now, before = win_rates.against(preference, newest), win_rates.against(preference, previous)
        return now + self.options.extrapolation * (now - before)
