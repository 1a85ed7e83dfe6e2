"""XPO: DPO with a bonus for exploring beyond the reference. Xie et al. 2405.21046.

    -log sigma(beta h) + alpha log pi(y_ref),   y ~ current policy, y_ref ~ reference, h(winner, loser) against it

The bonus lowers the likelihood of the reference's own answer (optimism). Bradley-Terry preferences are assumed. The
paper aggregates all data seen so far; here, as in public implementations, each batch is used by itself. alpha 1e-5 and
beta of the paper: UNCERTAIN.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from algorithms.objective import Anchor, Options, PairLogProbs
from algorithms.pair_losses import logistic
from algorithms.pairs import Pairs, choose_pairs
from algorithms.preference import FloatArray
from algorithms.sampling import Role, SamplingPlan, Update

_REFERENCE_PLACE = 1


class XPOOptions(Options):
    """`beta`: inverse temperature. `alpha`: weight of the bonus, per nat."""

    beta: float = Field(default=0.1, gt=0.0, allow_inf_nan=False)
    alpha: float = Field(default=1e-5, ge=0.0, allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class XPO:
    """XPO; see the module."""

    options: XPOOptions

    Options: ClassVar[type[Options]] = XPOOptions
    name: ClassVar[str] = "xpo"
    anchor: ClassVar[Anchor] = Anchor(reference=1.0, iterate=0.0)
    update: ClassVar[Update] = Update()
    corrects_opponents: ClassVar[bool] = False
    staleness_tolerance: ClassVar[str] = (
        "The current policy's candidate may be old, as in online DPO; the reference's never is."
    )
    sampling: ClassVar[SamplingPlan] = SamplingPlan(
        roles=(Role(name="pair", count=1), Role(name="pair", count=1, policies=("reference",)))
    )

    @property
    def reward_scale(self) -> float:
        return self.options.beta

    def pairs(
        self,
        preference: FloatArray,
        identity: Sequence[Hashable],
        seed: int,
        log_ratios: FloatArray | None = None,
    ) -> Pairs:
        """The one pair, the winner first; none if the two are identical or tie."""
        return choose_pairs(preference, identity, "all", seed)

    def loss(self, logprobs: PairLogProbs) -> Tensor:
        """Loss of each pair, [P]."""
        of_reference = torch.where(logprobs.first_index == _REFERENCE_PLACE, logprobs.first, logprobs.second)
        return logistic(logprobs.margin, self.options.beta) + self.options.alpha * of_reference
