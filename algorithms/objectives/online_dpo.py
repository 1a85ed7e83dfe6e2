"""Online DPO: the current policy writes K candidates, a judge compares them, the reference anchors h.

OAIF, Guo et al. 2402.04792; asynchronously, Noukhovitch et al. 2410.18252.
With c = log pi - log pi_ref, h = c(y_w) - c(y_l), |y| the number of tokens and o the log-odds of exp(log pi(y) / |y|),
the links are (`algorithms/pair_losses.py` has their sources):

    logistic                  -log sigma(beta h)            DPO; smoothed: cDPO, rDPO; soft: cross-entropy with P;
                                                            f-DPO with another `divergence`
    logistic_length_averaged  the same on c / |y|           Tulu 3
    ipo                       (h - 1/(2 beta))^2            soft: (h - (P - 1/2)/beta)^2
    ipo_length_averaged       the same on c / |y|
    hinge                     max(0, 1 - beta h)
    slic                      max(0, margin - log pi(y_w) + log pi(y_l))
    simpo                     -log sigma(beta (log pi(y_w)/|y_w| - log pi(y_l)/|y_l|) - margin)
    asft                      -log pi(y_w)/|y_w| - odds_weight (log sigma(o_w) + log sigma(-o_l))
    orpo                      -log pi(y_w)/|y_w| - odds_weight log sigma(o_w - o_l)
    sppo_hard                 (c(y_w) - 1/(2 beta))^2 + (c(y_l) + 1/(2 beta))^2

A supervised term on the winner may be added: `sft_weight` times -log pi(y_w) for slic (SLiC-HF); for logistic it is
RPO in one of two meanings, `sft` per_token (-log pi(y_w)/|y_w|, Pang 2404.19733) or sum (-beta log pi(y_w), Liu
2405.16436). Weights of both papers: UNCERTAIN.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from algorithms import pair_losses
from algorithms.objective import Anchor, Options, PairLogProbs
from algorithms.pairs import PairChoice, Pairs, choose_pairs
from algorithms.preference import FloatArray
from algorithms.sampling import Role, SamplingPlan, Update

Link = Literal[
    "logistic", "logistic_length_averaged", "ipo", "ipo_length_averaged", "hinge",
    "slic", "simpo", "asft", "orpo", "sppo_hard",
]  # fmt: skip

# Options that only some links read; elsewhere they would be silently without effect.
_READ_BY: dict[str, tuple[str, ...]] = {
    "label_smoothing": ("logistic",),
    "divergence": ("logistic",),
    "sft_weight": ("logistic", "slic"),
    "sft": ("logistic",),
    "margin": ("slic", "simpo"),
    "odds_weight": ("asft", "orpo"),
}


class OnlineDPOOptions(Options):
    """`beta`: inverse temperature (tau of IPO, 1/eta of SPPO); slic, asft and orpo have none.

    `label_smoothing`: assumed share of wrong labels. `alpha`: of the divergence `alpha`, as in f-DPO's paper.
    `margin`: delta of slic, gamma of simpo (the paper's gamma; its code multiplies a ratio by beta).
    """

    link: Link = "logistic"
    beta: float = Field(default=0.1, gt=0.0, allow_inf_nan=False)
    label_smoothing: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    smoothing: Literal["conservative", "robust"] = "conservative"
    divergence: pair_losses.Divergence = "reverse_kl"
    alpha: float = Field(default=0.5, gt=0.0, lt=1.0)
    sft_weight: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    sft: Literal["per_token", "sum"] = "per_token"
    margin: float = Field(default=1.0, ge=0.0, allow_inf_nan=False)
    odds_weight: float = Field(default=0.1, gt=0.0, allow_inf_nan=False)
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
        for name, links in _READ_BY.items():
            default = type(self).model_fields[name].default
            if getattr(self, name) != default and self.link not in links:
                defined = " and ".join(f"'{link}'" for link in links)
                raise ValueError(f"{name} is defined for link {defined}, not for '{self.link}'; set it to {default}")
        if self.alpha != 0.5 and self.divergence != "alpha":
            raise ValueError(f"alpha belongs to divergence 'alpha', not to '{self.divergence}'; set it to 0.5")
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
    update: ClassVar[Update] = Update()
    corrects_opponents: ClassVar[bool] = False
    staleness_tolerance: ClassVar[str] = (
        "Pairs may be old: the loss needs no behaviour probabilities, and age costs only coverage. It is "
        "also the age of the implicit opponent, because the labels compare candidates with each other."
    )

    @property
    def sampling(self) -> SamplingPlan:
        return SamplingPlan(roles=(Role(name="pair", count=self.options.candidates),))

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
        """Pairs of one group; `target` stays P(first > second) whether or not the link reads it."""
        return choose_pairs(preference, identity, self.options.pair_choice, seed)

    def reward_difference(self, logprobs: PairLogProbs) -> Tensor:
        """beta h, [P]; by log-ratios a token where the link averages them."""
        averaged = self.options.link.endswith("_length_averaged")
        return self.options.beta * (logprobs.length_averaged() if averaged else logprobs).margin

    def loss(self, logprobs: PairLogProbs) -> Tensor:
        """Loss of each pair, [P]."""
        options, beta = self.options, self.options.beta
        match options.link:
            case "logistic":
                return self._logistic(logprobs)
            case "logistic_length_averaged":
                return pair_losses.logistic_length_averaged(logprobs, beta)
            case "ipo" if options.targets == "soft":
                return pair_losses.ipo_soft(logprobs.margin, beta, logprobs.target)
            case "ipo":
                return pair_losses.ipo(logprobs.margin, beta)
            case "ipo_length_averaged":
                return pair_losses.ipo_length_averaged(logprobs, beta)
            case "hinge":
                return pair_losses.hinge(logprobs.margin, beta)
            case "slic":
                supervised = options.sft_weight * pair_losses.likelihood(logprobs)
                return pair_losses.slic(logprobs, options.margin) + supervised
            case "simpo":
                return pair_losses.simpo(logprobs, beta, options.margin)
            case "sppo_hard":
                return pair_losses.sppo_hard(logprobs, beta)
            case "asft" | "orpo":
                align = pair_losses.asft if options.link == "asft" else pair_losses.orpo
                return pair_losses.likelihood_length_averaged(logprobs) + options.odds_weight * align(logprobs)

    def _logistic(self, logprobs: PairLogProbs) -> Tensor:
        options, beta = self.options, self.options.beta
        margin = pair_losses.divergence_margin(logprobs, options.divergence, options.alpha)
        if options.targets == "soft":
            loss = pair_losses.logistic_soft(margin, beta, logprobs.target)
        elif options.label_smoothing == 0.0:
            loss = pair_losses.logistic(margin, beta)
        elif options.smoothing == "robust":
            loss = pair_losses.logistic_robust(margin, beta, options.label_smoothing)
        else:
            loss = pair_losses.logistic_conservative(margin, beta, options.label_smoothing)
        if options.sft_weight == 0.0:
            return loss
        if options.sft == "sum":
            return loss + options.sft_weight * beta * pair_losses.likelihood(logprobs)
        return loss + options.sft_weight * pair_losses.likelihood_length_averaged(logprobs)
