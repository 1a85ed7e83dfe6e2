"""The anchored pair regression, of which most self-play objectives are cases.

    loss(i, j) = rho( h(i, j) - scale (r_i - r_j) )
    h(i, j)    = c_i - c_j,  c = log pi - log anchor,  log anchor = a_ref log pi_ref + a_t log pi_t

r_i is the estimated win rate of candidate i against the objective's opponents, rho the square or Huber's function.
If the pairs reach every answer and the win rates are exact, its minimiser is log pi = log anchor + scale r + const,
the closed-form update of the game (`algorithms/games/updates.py`), whatever the distribution of the pairs. One step of
gradient descent on the logits of a table of n answers, pairs uniform (i = j included), with learning rate
eta n / (4 scale), goes the share eta / scale of the way there: anchored to the reference with scale 1 / beta it is
online mirror descent with step eta.

A case says who the opponents are, how their win rates are estimated, the anchor, the scale, and the update rule.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, Literal, Self, TypeVar

import numpy as np
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import huber_loss

from algorithms import win_rates
from algorithms.objective import Anchor, Options, PairLogProbs
from algorithms.pairs import Pairs, distinct_pairs, regression_pairs
from algorithms.preference import FloatArray
from algorithms.sampling import Role, SamplingPlan, Update


class RegressionOptions(Options):
    """Options of every anchored regression.

    `candidates` form the pairs, `opponents` only define win rates; both are numbers of completions of a prompt.
    `opponent_staleness`: updates of the opponents' policy that may lie between their sampling and their training.
    `pair_sampler`: who writes the pairs, the policy itself or the reference; `pair_temperature` and `pair_top_k` (none:
    as the run samples) flatten it. The minimiser does not depend on them as long as every answer stays possible, which
    top-k does not grant; a flatter sampler is a better preconditioner.
    `link`: rho; `huber` is error^2 up to `huber_delta` nats, then its tangent. `target_clip`: bound of |target|, nats.
    `length_averaged`: log-probabilities divided by their number of tokens, which changes the game that is solved.
    """

    candidates: int = Field(default=2, ge=2)
    opponents: int = Field(default=1, ge=1)
    opponent_staleness: int = Field(default=0, ge=0)
    pair_sampler: Literal["policy", "reference"] = "policy"
    pair_temperature: float | None = Field(default=None, gt=0.0, allow_inf_nan=False)
    pair_top_k: int | None = Field(default=None, ge=1)
    link: Literal["square", "huber"] = "square"
    huber_delta: float = Field(default=1.0, gt=0.0, allow_inf_nan=False)
    target_clip: float | None = Field(default=None, gt=0.0, allow_inf_nan=False)
    length_averaged: bool = False

    @model_validator(mode="after")
    def _delta_is_read(self) -> Self:
        if self.huber_delta != type(self).model_fields["huber_delta"].default and self.link != "huber":
            raise ValueError(f"huber_delta is read by link 'huber', not by '{self.link}'; ask for link 'huber'")
        return self

    def rho(self, error: Tensor) -> Tensor:
        """The link, elementwise: error^2, or its Huber form, which is the same up to `huber_delta`."""
        if self.link == "huber":
            return 2.0 * huber_loss(error, error.new_zeros(()).expand_as(error), "none", self.huber_delta)
        return error.square()

    def clipped(self, target: Tensor) -> Tensor:
        """The target within `target_clip`, nats."""
        return target if self.target_clip is None else target.clamp(-self.target_clip, self.target_clip)


OptionsT = TypeVar("OptionsT", bound=RegressionOptions)


@dataclass(frozen=True)
class AnchoredRegression(ABC, Generic[OptionsT]):
    """Base of the cases; one with three samples, in which opponents are candidates of their own.

    `policy` writes pairs; `opponent_policies` names who writes the opponents, one name for each turn.
    """

    options: OptionsT

    Options: ClassVar[type[Options]]
    name: ClassVar[str]
    staleness_tolerance: ClassVar[str]

    @property
    def update(self) -> Update:
        return Update()

    @property
    def anchor(self) -> Anchor:
        return Anchor(reference=1.0, iterate=0.0)

    @property
    @abstractmethod
    def scale(self) -> float:
        """Nats of margin for a win-rate difference of one."""

    @property
    def reward_scale(self) -> float:
        return 1.0 / self.scale

    @property
    def policy(self) -> str:
        return "current"

    @property
    def opponent_policies(self) -> tuple[str, ...]:
        return (self.policy,)

    @property
    def corrects_opponents(self) -> bool:
        return False

    @property
    def pair_role(self) -> Role:
        """The candidates that form pairs, as old as the loop allows."""
        options = self.options
        return Role(
            name="pair",
            count=options.candidates,
            policies=("reference" if options.pair_sampler == "reference" else self.policy,),
            temperature=options.pair_temperature,
            top_k=options.pair_top_k,
        )

    @property
    def opponent_role(self) -> Role:
        """The candidates that only define win rates, kept fresh."""
        return Role(
            name="opponent",
            count=self.options.opponents,
            policies=self.opponent_policies,
            staleness=self.options.opponent_staleness,
        )

    @property
    def sampling(self) -> SamplingPlan:
        return SamplingPlan(roles=(self.pair_role, self.opponent_role))

    def pairs(
        self,
        preference: FloatArray,
        identity: Sequence[Hashable],
        seed: int,
        log_ratios: FloatArray | None = None,
    ) -> Pairs:
        """All pairs of different candidates, the one with the higher win rate first."""
        first, second, dropped = distinct_pairs(identity, np.arange(self.options.candidates))
        rates = self.rates(preference)
        return regression_pairs(preference, first, second, (rates[first], rates[second]), dropped)

    def rates(self, preference: FloatArray) -> FloatArray:
        """Win rates of all candidates against the opponents, [K, K] -> [K]."""
        return win_rates.against(preference, np.arange(self.options.candidates, len(preference)))

    def loss(self, logprobs: PairLogProbs) -> Tensor:
        """Loss of each pair, [P]."""
        return self.options.rho(self.error(logprobs))

    def error(self, logprobs: PairLogProbs) -> Tensor:
        """Margin minus target of each pair, nats, [P]."""
        margin = (logprobs.length_averaged() if self.options.length_averaged else logprobs).margin
        return margin - self.options.clipped(self.scale * (logprobs.first_rate - logprobs.second_rate))
