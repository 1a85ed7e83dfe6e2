"""Nash-MD-PG: policy gradient against a mixture of policy and reference. Munos et al. 2312.00886.

    E_{y ~ pi, y' ~ m} grad log pi(y) ( P(y > y') - 1/2 - beta log pi(y)/mu(y) ),   beta is the paper's tau

Exact: the gradient of this expectation for the opponents that were really sampled, with KL of the whole sequence; a
leave-one-out baseline over the K candidates stands in the place of 1/2, which changes the variance and not the mean.
Approximated: m. The paper's Nash-MD has the normalised pi^(1 - lambda) mu^lambda of whole responses, and its Nash-MD-PG
mixes logits token by token, which needs both models in every decoding step. Here m is the policy `mixture`, whose
PARAMETERS lie between those of policy and reference (`mixture` is lambda): the same thing for a table of logits, else a
neighbour of it for small changes of the parameters. lambda 0.125 and tau 0.008 of the paper: UNCERTAIN.
The exact update is lp+ = log m + eta w(m); with a constant eta its fixed point is near the equilibrium, not on it.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from pydantic import Field
from torch import Tensor

from algorithms import win_rates
from algorithms.objective import Anchor, Options, PairLogProbs
from algorithms.objectives.policy_gradient import PolicyGradientOptions, policy_gradient
from algorithms.pairs import Pairs, regression_pairs
from algorithms.preference import FloatArray
from algorithms.sampling import Role, SamplingPlan, Update


class NashMDOptions(PolicyGradientOptions):
    """`beta`: temperature of the game (tau). `mixture`: the reference's share of the opponents, lambda."""

    candidates: int = Field(default=2, ge=2)
    opponents: int = Field(default=1, ge=1)
    beta: float = Field(default=0.1, gt=0.0, allow_inf_nan=False)
    mixture: float = Field(default=0.125, gt=0.0, le=1.0)


@dataclass(frozen=True, slots=True)
class NashMD:
    """Nash-MD-PG; see the module."""

    options: NashMDOptions

    Options: ClassVar[type[Options]] = NashMDOptions
    name: ClassVar[str] = "nash_md"
    anchor: ClassVar[Anchor] = Anchor(reference=1.0, iterate=0.0)
    corrects_opponents: ClassVar[bool] = False
    staleness_tolerance: ClassVar[str] = (
        "Policy gradient: candidates and opponents are bounded by `opponent_staleness`. Truncated importance weights "
        "correct for older candidates, up to `weight_cap`; nothing corrects older opponents."
    )

    @property
    def update(self) -> Update:
        return Update(mixture=self.options.mixture)

    @property
    def reward_scale(self) -> float:
        return self.options.beta

    @property
    def sampling(self) -> SamplingPlan:
        options, age = self.options, self.options.opponent_staleness
        candidates = Role(name="pair", count=options.candidates, staleness=age)
        opponents = Role(name="opponent", count=options.opponents, policies=("mixture",), staleness=age)
        return SamplingPlan(roles=(candidates, opponents))

    def pairs(
        self,
        preference: FloatArray,
        identity: Sequence[Hashable],
        seed: int,
        log_ratios: FloatArray | None = None,
    ) -> Pairs:
        """All pairs of candidates, the one with the higher win rate against the mixture first."""
        rates = win_rates.against(preference, np.arange(self.options.candidates, len(preference)))
        first, second = np.triu_indices(self.options.candidates, 1)
        return regression_pairs(preference, first, second, (rates[first], rates[second]), dropped=0)

    def loss(self, logprobs: PairLogProbs) -> Tensor:
        """Loss of each pair, [P]."""
        advantage = logprobs.first_rate - logprobs.second_rate - self.options.beta * logprobs.margin
        return policy_gradient(logprobs, advantage, self.options)
