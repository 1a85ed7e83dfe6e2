"""DNO-Prct: iterated DPO on pairs with a large margin of win rates. Rosset et al. 2404.03715, Alg. 2.

    -log sigma(h / eta),   h(y+, y-) against the iterate pi_t, eta a step: the paper's eta_DNO is 1/eta

K samples of pi_t and, if `teacher_candidates` is set, answers of the named policy `teacher` are ranked by their win
rates within the group, own 1/2 included. A pair needs a winner of `least_rate` or more, and a loser at least `margin`
below a winner of the policy's own, or `teacher_margin` below the teacher's. A share of earlier iterations' groups is
trained again (`replay`: of the last, the one before, ...), against the current pi_t.
The paper scores on an absolute scale of six points: winner 5 or 6, two points of margin, one for an own winner. Win
rates within a group have no such scale, so the thresholds here are ours. Hard labels make this a Bradley-Terry fit: its
fixed point is not the equilibrium of a cyclic game. The paper's alpha 0.005 is not defined in its text (UNCERTAIN).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from pydantic import Field, field_validator
from torch import Tensor

from algorithms import win_rates
from algorithms.objective import Anchor, Options, PairLogProbs
from algorithms.pair_losses import logistic
from algorithms.pairs import RATE_TOLERANCE, Pairs, distinct_pairs, regression_pairs
from algorithms.preference import FloatArray
from algorithms.sampling import Role, SamplingPlan, Update


class DNOPrctOptions(Options):
    """`step_size`: eta. `iteration`: versions between refreshes of pi_t. Rates and margins lie in [0, 1]."""

    candidates: int = Field(default=5, ge=2)
    teacher_candidates: int = Field(default=0, ge=0)
    step_size: float = Field(default=10.0, gt=0.0, allow_inf_nan=False)
    least_rate: float = Field(default=0.6, ge=0.0, le=1.0)
    margin: float = Field(default=0.2, gt=0.0, le=1.0)
    teacher_margin: float = Field(default=0.4, gt=0.0, le=1.0)
    iteration: int = Field(default=1, ge=1)
    momentum: float = Field(default=0.0, ge=0.0, lt=1.0)
    replay: tuple[float, ...] = (0.30, 0.15)

    @field_validator("replay")
    @classmethod
    def _leaves_room(cls, replay: tuple[float, ...]) -> tuple[float, ...]:
        if any(not share >= 0.0 for share in replay) or sum(replay) >= 1.0:
            raise ValueError(f"replay = {list(replay)} must be shares of a batch, with a sum below 1: the rest is new")
        return replay


@dataclass(frozen=True, slots=True)
class DNOPrct:
    """DNO-Prct; see the module."""

    options: DNOPrctOptions

    Options: ClassVar[type[Options]] = DNOPrctOptions
    name: ClassVar[str] = "dno_prct"
    anchor: ClassVar[Anchor] = Anchor(reference=0.0, iterate=1.0)
    corrects_opponents: ClassVar[bool] = False
    staleness_tolerance: ClassVar[str] = (
        "Pairs may be old, as replayed ones are: the loss needs no behaviour probabilities. Ranks are those within the "
        "group that was sampled."
    )

    @property
    def update(self) -> Update:
        options = self.options
        return Update(iteration=options.iteration, momentum=options.momentum, replay=options.replay)

    @property
    def reward_scale(self) -> float:
        return 1.0 / self.options.step_size

    @property
    def sampling(self) -> SamplingPlan:
        options = self.options
        policy = "iterate" if options.iteration > 1 else "current"
        roles: tuple[Role, ...] = (Role(name="pair", count=options.candidates, policies=(policy,)),)
        if options.teacher_candidates:
            roles += (Role(name="pair", count=options.teacher_candidates, policies=("teacher",)),)
        return SamplingPlan(roles=roles)

    def pairs(
        self,
        preference: FloatArray,
        identity: Sequence[Hashable],
        seed: int,
        log_ratios: FloatArray | None = None,
    ) -> Pairs:
        """Pairs with a large enough margin, the winner first; `dropped` counts the others too."""
        options = self.options
        rates = win_rates.self_included(preference)
        first, second, dropped = distinct_pairs(identity, np.arange(len(preference)))
        ranked = regression_pairs(preference, first, second, (rates[first], rates[second]), dropped)
        margin = np.where(ranked.first >= options.candidates, options.teacher_margin, options.margin)
        clear = ranked.first_rate - ranked.second_rate >= margin - RATE_TOLERANCE
        good = ranked.first_rate >= options.least_rate - RATE_TOLERANCE
        return ranked.take(np.flatnonzero(clear & good), asked=len(ranked) + dropped)

    def loss(self, logprobs: PairLogProbs) -> Tensor:
        """Loss of each pair, [P]."""
        return logistic(logprobs.margin, self.reward_scale)
