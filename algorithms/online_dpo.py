"""Online DPO: the current policy writes K candidates, a judge compares them, the reference anchors h.

OAIF, Guo et al. 2402.04792; asynchronously, Noukhovitch et al. 2410.18252.
With h = c(y_w) - c(y_l) and c = log pi - log pi_ref the links are:

    logistic             -log sigma(beta h)     (DPO; smoothed: cDPO, rDPO; soft: cross-entropy with P)
    ipo                  (h - 1/(2 beta))^2     (soft: (h - (P - 1/2)/beta)^2)
    ipo_length_averaged  the same on per-token averages of c
    hinge                max(0, 1 - beta h)
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from algorithms import pair_losses
from algorithms.objective import Anchor, Options, PairLogProbs, SamplingPlan
from algorithms.pairs import PairChoice, Pairs, choose_pairs
from algorithms.preference import FloatArray


class OnlineDPOOptions(Options):
    """`beta`: inverse temperature (tau of IPO). `label_smoothing`: assumed share of wrong labels."""

    link: Literal["logistic", "ipo", "ipo_length_averaged", "hinge"] = "logistic"
    beta: float = Field(default=0.1, gt=0.0, allow_inf_nan=False)
    label_smoothing: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    smoothing: Literal["conservative", "robust"] = "conservative"
    targets: Literal["hard", "soft"] = "hard"
    pair_choice: PairChoice = "best_worst"
    candidates: int = Field(default=2, ge=2)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.label_smoothing >= 0.5:
            raise ValueError(
                f"label_smoothing {self.label_smoothing} must stay below 0.5: there labels say nothing "
                "and robust smoothing divides by 1 - 2 label_smoothing = 0; beyond, preferences are reversed"
            )
        if self.label_smoothing > 0.0 and self.link != "logistic":
            raise ValueError(f"label_smoothing is defined for link 'logistic', not for '{self.link}'; set it to 0")
        if self.targets == "soft" and self.link not in ("logistic", "ipo"):
            raise ValueError(f"targets 'soft' exist for links 'logistic' and 'ipo'; link '{self.link}' needs 'hard'")
        if self.targets == "soft" and self.label_smoothing > 0.0:
            raise ValueError("targets 'soft' already state the judge's uncertainty; set label_smoothing to 0")
        return self


@dataclass(frozen=True, slots=True)
class OnlineDPO:
    """Online DPO and its links; see the module. Holds only its options."""

    options: OnlineDPOOptions

    Options: ClassVar[type[Options]] = OnlineDPOOptions
    name: ClassVar[str] = "online_dpo"
    anchor: ClassVar[Anchor] = Anchor(reference=1.0, iterate=0.0)
    staleness_tolerance: ClassVar[str] = (
        "Pairs may be old: the loss needs no behaviour probabilities, and age costs only coverage. It is "
        "also the age of the implicit opponent, because the labels compare candidates with each other."
    )

    @property
    def sampling(self) -> SamplingPlan:
        return SamplingPlan(candidates=self.options.candidates)

    @property
    def reward_scale(self) -> float:
        return self.options.beta

    def pairs(self, preference: FloatArray, identity: Sequence[Hashable], seed: int) -> Pairs:
        """Pairs of one group; `target` stays P(first > second) whether or not the link reads it."""
        return choose_pairs(preference, identity, self.options.pair_choice, seed)

    def loss(self, logprobs: PairLogProbs) -> Tensor:
        """Loss of each pair, [P]."""
        options, margin, beta = self.options, logprobs.margin, self.options.beta
        soft = options.targets == "soft"
        match options.link:
            case "ipo" if soft:
                return pair_losses.ipo_soft(margin, beta, logprobs.target)
            case "ipo":
                return pair_losses.ipo(margin, beta)
            case "ipo_length_averaged":
                return pair_losses.ipo_length_averaged(logprobs, beta)
            case "hinge":
                return pair_losses.hinge(margin, beta)
        if soft:
            return pair_losses.logistic_soft(margin, beta, logprobs.target)
        if options.label_smoothing == 0.0:
            return pair_losses.logistic(margin, beta)
        if options.smoothing == "robust":
            return pair_losses.logistic_robust(margin, beta, options.label_smoothing)
        return pair_losses.logistic_conservative(margin, beta, options.label_smoothing)
