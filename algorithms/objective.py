"""An objective is four choices: sampling plan, anchor, target, link. Nothing above this layer knows which.

The learner computes one log-probability per candidate that a pair names, combines reference and iterate by the
anchor's weights, and hands `PairLogProbs` to `Objective.loss`. A new objective is one file and one line of
`OBJECTIVES`.
"""

import difflib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, ClassVar, Protocol, cast, runtime_checkable

from pydantic import BaseModel, ConfigDict, model_validator
from torch import Tensor

from algorithms.pairs import Pairs
from algorithms.preference import FloatArray
from algorithms.sampling import SamplingPlan, Update

# Name -> "module:class". Imported when asked for, because objectives import this module.
OBJECTIVES: dict[str, str] = {
    "online_dpo": "algorithms.objectives.online_dpo:OnlineDPO",
    "egpo": "algorithms.objectives.egpo:EGPO",
    "past_egpo": "algorithms.objectives.past_egpo:PastEGPO",
    "optimistic_egpo": "algorithms.objectives.optimistic_egpo:OptimisticEGPO",
    "online_ipo": "algorithms.objectives.online_ipo:OnlineIPO",
    "inpo": "algorithms.objectives.inpo:INPO",
    "sppo": "algorithms.objectives.sppo:SPPO",
    "dno": "algorithms.objectives.dno:DNO",
    "dno_prct": "algorithms.objectives.dno_prct:DNOPrct",
    "onpo": "algorithms.objectives.onpo:ONPO",
    "spo": "algorithms.objectives.spo:SPO",
    "nash_md": "algorithms.objectives.nash_md:NashMD",
    "xpo": "algorithms.objectives.xpo:XPO",
    "copg": "algorithms.objectives.copg:CoPG",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """log anchor = reference * log pi_ref + iterate * log pi_t; a model of weight zero is not evaluated."""

    reference: float
    iterate: float

    def combine(self, reference: Tensor | None, iterate: Tensor | None) -> Tensor:
        """Anchor log-probabilities, same shape as the inputs; an input whose weight is zero may be None."""
        weighted = ((self.reference, reference), (self.iterate, iterate))
        terms = [weight * values for weight, values in weighted if weight != 0.0 and values is not None]
        if len(terms) != sum(weight != 0.0 for weight, _ in weighted):
            raise ValueError(f"{self} lacks the log-probabilities of a model with non-zero weight")
        if not terms:
            raise ValueError(f"{self} anchors to nothing; one weight must be non-zero")
        return terms[0] if len(terms) == 1 else terms[0] + terms[1]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairLogProbs:
    """What the learner knows of P pairs; every field is [P], float32 but for the indices.

    `first`, `second`: sums over completion tokens of log pi, nats, with gradient. `anchor_*`: the same under the
    anchor; `behaviour_*`: under the distribution that sampled them; both without gradient. `*_length`: completion
    tokens, end token included. `target`: P(first > second). `*_rate`: win rate against the objective's opponents.
    `*_index`: int64, the candidate's place in its group.
    """

    first: Tensor
    second: Tensor
    anchor_first: Tensor
    anchor_second: Tensor
    behaviour_first: Tensor
    behaviour_second: Tensor
    first_length: Tensor
    second_length: Tensor
    first_index: Tensor
    second_index: Tensor
    target: Tensor
    first_rate: Tensor
    second_rate: Tensor

    @property
    def margin(self) -> Tensor:
        """h = c(first) - c(second) with c = log pi - log anchor, nats, [P]."""
        return self.first_ratio - self.second_ratio

    @property
    def first_ratio(self) -> Tensor:
        """c(first) = log pi - log anchor, nats, [P]."""
        return self.first - self.anchor_first

    @property
    def second_ratio(self) -> Tensor:
        """c(second), nats, [P]."""
        return self.second - self.anchor_second

    def length_averaged(self) -> "PairLogProbs":
        """The same pairs with every sum of log-probabilities divided by its number of tokens."""
        first, second = self.first_length.clamp(min=1), self.second_length.clamp(min=1)
        return replace(
            self,
            **{name: getattr(self, name) / first for name in ("first", "anchor_first", "behaviour_first")},
            **{name: getattr(self, name) / second for name in ("second", "anchor_second", "behaviour_second")},
        )


class Options(BaseModel):
    """Base of every objective's options: immutable; an unknown key is an error that names the nearest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _reject_unknown(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            for key in data:
                if key not in cls.model_fields:
                    raise ValueError(unknown("option", str(key), cls.model_fields))
        return data


class Objective(Protocol):
    """One method of preference optimisation; immutable and free of state."""

    Options: ClassVar[type[Options]]

    @property
    def name(self) -> str: ...

    @property
    def sampling(self) -> SamplingPlan: ...

    @property
    def update(self) -> Update: ...

    @property
    def anchor(self) -> Anchor: ...

    @property
    def staleness_tolerance(self) -> str:
        """Which roles of the data may be old, and what their age changes; for the run's report."""

    @property
    def reward_scale(self) -> float:
        """Factor that turns log-ratios into implicit rewards (beta)."""

    @property
    def corrects_opponents(self) -> bool:
        """Whether `pairs` wants log-ratios of the opponents, which then cost forward passes of their own."""

    def pairs(
        self,
        preference: FloatArray,
        identity: Sequence[Hashable],
        seed: int,
        log_ratios: FloatArray | None = None,
    ) -> Pairs:
        """Pairs of one group, from its K x K preference matrix in the order of the sampling plan.

        `identity[k]` is, say, the token ids. `log_ratios` [K]: log pi - log behaviour of each candidate, nats; read
        only if `corrects_opponents`, and none until they are known. Which candidates form pairs does not depend on it.
        """

    def loss(self, logprobs: PairLogProbs) -> Tensor:
        """Loss of each pair, [P]; its mean, weighted by `Pairs.weight`, is what the learner minimises."""


@runtime_checkable
class Aimed(Protocol):
    """An objective whose loss names the margin that it wants, so that the share of the way can be measured."""

    def error(self, logprobs: PairLogProbs) -> Tensor:
        """What the loss brings to zero: margin minus target of each pair, nats, [P]."""


@runtime_checkable
class OwnReward(Protocol):
    """An objective whose implicit reward is not `reward_scale` times the log-ratio of a whole completion."""

    def reward_difference(self, logprobs: PairLogProbs) -> Tensor:
        """Implicit reward of the first member of each pair less that of the second, [P]."""


def reward_difference(objective: Objective, logprobs: PairLogProbs) -> Tensor:
    """What an objective's loss sees as the difference of a pair's rewards, beta h unless it says otherwise, [P]."""
    if isinstance(objective, OwnReward):
        return objective.reward_difference(logprobs)
    return objective.reward_scale * logprobs.margin


def build_objective(name: str, options: Mapping[str, Any]) -> Objective:
    """The objective of that name with these options; ValueError names the nearest objective or option."""
    if name not in OBJECTIVES:
        raise ValueError(unknown("objective", name, OBJECTIVES))
    module, _, attribute = OBJECTIVES[name].partition(":")
    kind = getattr(import_module(module), attribute)
    return cast(Objective, kind(kind.Options.model_validate(dict(options))))


def unknown(what: str, given: str, known: Mapping[str, Any]) -> str:
    """Message for a name that does not exist, with the nearest that does."""
    nearest = difflib.get_close_matches(given, known, n=1, cutoff=0.0)
    return f"unknown {what} '{given}'; nearest is '{nearest[0]}'; known: {', '.join(sorted(known))}"
