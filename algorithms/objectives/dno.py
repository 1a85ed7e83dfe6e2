"""DNO: regression of the implicit reward on expected win rates, by cross-entropy. Rosset et al. 2404.03715, Alg. 1.

    -sigma(r - r') log sigma(h / eta) - sigma(r' - r) log sigma(-h / eta),   r = P(y > pi_t), h against pi_t

eta is a step; the paper writes its inverse, eta_DNO = 1/eta. `loss` 'regression' is the squared variant, our
derivation: rho(h - eta (r - r')). Both have the minimiser lp+ = lp_t + eta w(pi_t): multiplicative weights, whose
average approaches an equilibrium of the unregularised game, not its last iterate. As r - r' lies in [-1, 1], the soft
labels lie in [0.27, 0.73]: a small eta hardly moves the policy.
"""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from algorithms.objective import Anchor, Options, PairLogProbs
from algorithms.objectives.estimated_regression import Estimator, IterativeOptions, IterativeRegression
from algorithms.pair_losses import logistic_soft


class DNOOptions(IterativeOptions):
    """`step_size`: eta. `loss`: the paper's cross-entropy, or the anchored regression with its `link`."""

    win_rates: Estimator = "self_included"
    candidates: int = Field(default=5, ge=2)
    loss: Literal["cross_entropy", "regression"] = "cross_entropy"

    @model_validator(mode="after")
    def _regression_has_targets(self) -> Self:
        if self.loss == "cross_entropy" and (self.link != "square" or self.target_clip is not None):
            raise ValueError("link and target_clip are read by loss 'regression', not by 'cross_entropy'; ask for it")
        return self


class DNO(IterativeRegression[DNOOptions]):
    """DNO; see the module."""

    Options: ClassVar[type[Options]] = DNOOptions
    name: ClassVar[str] = "dno"
    staleness_tolerance: ClassVar[str] = (
        "Win rates are against the iterate. With win_rates 'opponents' pairs may be of any age: the minimiser does not "
        "depend on them; otherwise the pairs are the opponents and as old as `opponent_staleness`."
    )

    @property
    def anchor(self) -> Anchor:
        return Anchor(reference=0.0, iterate=1.0)

    def loss(self, logprobs: PairLogProbs) -> Tensor:
        """Loss of each pair, [P]."""
        if self.options.loss == "regression":
            return super().loss(logprobs)
        margin = (logprobs.length_averaged() if self.options.length_averaged else logprobs).margin
        return logistic_soft(margin, 1.0 / self.scale, (logprobs.first_rate - logprobs.second_rate).sigmoid())
