"""SPPO: each response's log-ratio to the last iterate follows its win rate. Wu et al. 2405.00675.

    1/2 sum_{y in {y_w, y_l}} rho( log pi(y)/pi_t(y) - eta (P(y > pi_t) - 1/2) )

y_w and y_l are the best and the worst of K samples of pi_t (`pair_choice`), win rates are those among the K, own 1/2
included: single rates come out (K - 1)/K times too near to 1/2, so the step is eta (K - 1)/K. Here 1/2 stands for
log Z / eta, which no eta of the papers' size (1e3) makes true: a direction of regression, not a solve. The exact update
is lp+ = lp + eta w(pi_t): multiplicative weights, whose average approaches an equilibrium of the unregularised game and
whose last iterate circles it where preferences are cyclic. Nothing pulls back to the start.
"""

from collections.abc import Hashable, Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator
from torch import Tensor

from algorithms.objective import Anchor, Options, PairLogProbs
from algorithms.objectives.estimated_regression import Estimator, IterativeOptions, IterativeRegression
from algorithms.pairs import Pairs
from algorithms.preference import FloatArray


class SPPOOptions(IterativeOptions):
    """`step_size`: eta (1e3 in the paper, 1 / beta in its code). `pair_choice`: which responses are used."""

    win_rates: Estimator = "self_included"
    candidates: int = Field(default=5, ge=2)
    pair_choice: Literal["best_worst", "all"] = "best_worst"

    def _correctable(self) -> None:
        super()._correctable()
        if self.pair_choice == "best_worst":
            raise ValueError(
                "opponent_correction 'truncated' needs pair_choice 'all': weights are known only after the choice of "
                "the best and the worst response"
            )

    @field_validator("win_rates")
    @classmethod
    def _of_single_responses(cls, estimator: Estimator) -> Estimator:
        if estimator not in ("self_included", "opponents"):
            raise ValueError(
                f"sppo needs win rates of single responses, 'self_included' or 'opponents'; '{estimator}' gives those "
                "of pairs"
            )
        return estimator


class SPPO(IterativeRegression[SPPOOptions]):
    """SPPO; see the module."""

    Options: ClassVar[type[Options]] = SPPOOptions
    name: ClassVar[str] = "sppo"
    staleness_tolerance: ClassVar[str] = (
        "Win rates are against the iterate: with win_rates 'self_included' the candidates are its opponents too and as "
        "old as `opponent_staleness`; with 'opponents' responses may be of any age."
    )

    @property
    def anchor(self) -> Anchor:
        return Anchor(reference=0.0, iterate=1.0)

    def pairs(
        self,
        preference: FloatArray,
        identity: Sequence[Hashable],
        seed: int,
        log_ratios: FloatArray | None = None,
    ) -> Pairs:
        """Pairs of responses; each response enters the loss by itself."""
        pairs = super().pairs(preference, identity, seed, log_ratios)
        if self.options.pair_choice == "all" or not len(pairs):
            return pairs
        return pairs.take(np.argmax(pairs.first_rate - pairs.second_rate, keepdims=True), asked=1)

    def loss(self, logprobs: PairLogProbs) -> Tensor:
        """Mean over the two responses of each pair, [P]."""
        options = self.options
        ratios = logprobs.length_averaged() if options.length_averaged else logprobs
        first = ratios.first_ratio - options.clipped(self.scale * (logprobs.first_rate - 0.5))
        second = ratios.second_ratio - options.clipped(self.scale * (logprobs.second_rate - 0.5))
        return (options.rho(first) + options.rho(second)) / 2.0
