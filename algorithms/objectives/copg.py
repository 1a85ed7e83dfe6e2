"""CoPG, contrastive policy gradient, on rewards or on win rates. Flet-Berliac et al. 2406.19185.

    ( [R(y) - beta log pi(y)/mu(y)] - [R(y') - beta log pi(y')/mu(y')] )^2

This is beta^2 times the loss of online IPO with R in the place of the win rates, and has the minimiser
lp+ = log mu + R/beta for pairs from anywhere. R is one of (`rewards`)

    win_rates   R(y) = P(y > pi), which moves with the policy, estimated as `win_rates` says
    log_odds    R(y) - R(y') = log P(y > y') / P(y' > y): the paper's fixed reward, exact where preferences are
                Bradley-Terry, as those that a scorer makes of rewards are (in units of its temperature)

Log-odds need no opponents, so groups of any age can be trained. A verdict of 0 or 1 has none: P is kept 1e-6 away from
both. The paper's beta: UNCERTAIN.
"""

from collections.abc import Hashable, Sequence
from typing import ClassVar, Literal, Self

import numpy as np
from pydantic import model_validator
from scipy.special import logit
from torch import Tensor

from algorithms.objective import Options, PairLogProbs
from algorithms.objectives.online_ipo import OnlineIPO, OnlineIPOOptions
from algorithms.pairs import Pairs, distinct_pairs, regression_pairs
from algorithms.preference import FloatArray
from algorithms.sampling import SamplingPlan

_LEAST_PROBABILITY = 1e-6

# Options that say how win rates are estimated.
_WIN_RATES_ONLY = ("win_rates", "labels", "opponents", "opponent_staleness", "opponent_correction")


class CoPGOptions(OnlineIPOOptions):
    """`rewards`: see the module."""

    rewards: Literal["win_rates", "log_odds"] = "win_rates"

    @model_validator(mode="after")
    def _win_rates_are_read(self) -> Self:
        for name in _WIN_RATES_ONLY if self.rewards == "log_odds" else ():
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} = {getattr(self, name)} is read with rewards 'win_rates', not 'log_odds'")
        return self


class CoPG(OnlineIPO):
    """CoPG; see the module. Other options are those of online IPO."""

    options: CoPGOptions

    Options: ClassVar[type[Options]] = CoPGOptions
    name: ClassVar[str] = "copg"

    @property
    def sampling(self) -> SamplingPlan:
        return SamplingPlan(roles=(self.pair_role,)) if self.options.rewards == "log_odds" else super().sampling

    def pairs(
        self,
        preference: FloatArray,
        identity: Sequence[Hashable],
        seed: int,
        log_ratios: FloatArray | None = None,
    ) -> Pairs:
        """All pairs of different candidates, the one with the higher reward first."""
        if self.options.rewards == "win_rates":
            return super().pairs(preference, identity, seed, log_ratios)
        first, second, dropped = distinct_pairs(identity, np.arange(self.options.candidates))
        probability = np.clip(preference[first, second], _LEAST_PROBABILITY, 1.0 - _LEAST_PROBABILITY)
        odds = logit(probability)
        return regression_pairs(preference, first, second, (odds / 2.0, -odds / 2.0), dropped)

    def loss(self, logprobs: PairLogProbs) -> Tensor:
        """Loss of each pair, [P]; `huber_delta` and `target_clip` stay in nats of log pi."""
        return self.options.beta**2 * super().loss(logprobs)
