"""An objective is four choices: sampling plan, anchor, target, link. Nothing above this layer knows which.

The learner computes one log-probability per candidate, combines reference and iterate by the anchor's
weights, and hands `PairLogProbs` to `Objective.loss`. A new objective is one file and one line of
`OBJECTIVES`.
"""

import difflib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, Protocol, cast

from pydantic import BaseModel, ConfigDict, model_validator
from torch import Tensor

from algorithms.pairs import Pairs
from algorithms.preference import FloatArray

# Name -> "module:class". Imported when asked for, because objectives import this module.
OBJECTIVES: dict[str, str] = {
    "online_dpo": "algorithms.online_dpo:OnlineDPO",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingPlan:
    """How many candidates the named policy writes for one prompt."""

    candidates: int
    policy: str = "current"


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
    """What the learner knows of P pairs; every field is [P] float32.

    `first`, `second`: sums over completion tokens of log pi, nats, with gradient. `anchor_first`,
    `anchor_second`: the same under the anchor, without gradient. `first_length`, `second_length`: completion
    tokens, end token included. `target`: P(first > second).
    """

    first: Tensor
    second: Tensor
    anchor_first: Tensor
    anchor_second: Tensor
    first_length: Tensor
    second_length: Tensor
    target: Tensor

    @property
    def margin(self) -> Tensor:
        """h = c(first) - c(second) with c = log pi - log anchor, nats, [P]."""
        return (self.first - self.anchor_first) - (self.second - self.anchor_second)


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
    def anchor(self) -> Anchor: ...

    @property
    def staleness_tolerance(self) -> str:
        """Which roles of the data may be old, and what their age changes; for the run's report."""

    @property
    def reward_scale(self) -> float:
        """Factor that turns the margin h into the implicit reward difference that is logged (beta)."""

    def pairs(self, preference: FloatArray, identity: Sequence[Hashable], seed: int) -> Pairs: ...

    def loss(self, logprobs: PairLogProbs) -> Tensor:
        """Loss of each pair, [P]; its mean over all pairs of a step is what the learner minimises."""


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
