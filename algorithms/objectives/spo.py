"""SPO, self-play preference optimisation: policy gradient on win rates among the group. Swamy et al. 2401.04056.

    A_i = 1/(K - 1) sum_{j != i} P(y_i > y_j),   loss as in `policy_gradient.py`

Leaving out only oneself is right here, where each candidate's own gradient is multiplied by its win rate against the
others, and nowhere else: in a pair regression it overshoots. Candidates come from the current policy, which plays
against itself. The exact update is multiplicative weights, lp+ = lp + eta w(pi): the average policy approaches an
equilibrium of the unregularised game. Nothing pulls back to the start. The paper's sliding queue of earlier
trajectories as opponents is not used.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from algorithms.objective import Anchor, Options, PairLogProbs
from algorithms.objectives.policy_gradient import PolicyGradientOptions, policy_gradient
from algorithms.pairs import Pairs, regression_pairs
from algorithms.preference import FloatArray
from algorithms.sampling import Role, SamplingPlan, Update


@dataclass(frozen=True, slots=True)
class SPO:
    """SPO; see the module."""

    options: PolicyGradientOptions

    Options: ClassVar[type[Options]] = PolicyGradientOptions
    name: ClassVar[str] = "spo"
    # Nothing of the loss depends on it: the reference is there for the margins and the KL that are logged.
    anchor: ClassVar[Anchor] = Anchor(reference=1.0, iterate=0.0)
    update: ClassVar[Update] = Update()
    reward_scale: ClassVar[float] = 1.0
    corrects_opponents: ClassVar[bool] = False
    staleness_tolerance: ClassVar[str] = (
        "Candidates are each other's opponents. Truncated importance weights correct the gradient for older ones, up "
        "to `weight_cap`, but not their win rates, so `opponent_staleness` bounds their age."
    )

    @property
    def sampling(self) -> SamplingPlan:
        options = self.options
        role = Role(name="pair", count=options.candidates, staleness=options.opponent_staleness)
        return SamplingPlan(roles=(role,))

    def pairs(
        self,
        preference: FloatArray,
        identity: Sequence[Hashable],
        seed: int,
        log_ratios: FloatArray | None = None,
    ) -> Pairs:
        """All pairs, the one with the higher win rate first."""
        count = len(preference)
        rates = (preference.sum(axis=1) - 0.5) / (count - 1)
        first, second = np.triu_indices(count, 1)
        return regression_pairs(preference, first, second, (rates[first], rates[second]), dropped=0)

    def loss(self, logprobs: PairLogProbs) -> Tensor:
        """Loss of each pair, [P]."""
        return policy_gradient(logprobs, logprobs.first_rate - logprobs.second_rate, self.options)
