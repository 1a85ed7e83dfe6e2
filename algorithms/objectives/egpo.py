"""EGPO: extragradient on the regularised preference game. Zhou, Fazel and Du, 2503.08942.

    L(theta; q) = E_{y, y' ~ rho} ( h(y, y') - [P(y > q) - P(y' > q)] / beta )^2,   h against the reference
    theta' = step(theta; L(.; pi_theta)),   theta <- step(theta; L(.; pi_theta'))

Both gradients are taken at theta; only the opponent q changes. The exact update is a half step
lh = base(lp) + eta w(pi), then lp+ = base(lp) + eta w(h), with base(lp) = (1 - eta beta) lp + eta beta log mu; eta beta
follows from the learning rate. One update is two versions: even ones publish the look-ahead `half`, odd ones `current`.
The authors' language-model code draws rho at temperature 2.0 with top-k 10 and averages log-probabilities over tokens
(`pair_temperature`, `pair_top_k`, `length_averaged`); the last two change what is solved, so they are off here. It
samples everything from the one model that it holds, the look-ahead by turns, which is `alternate` here.
"""

from typing import ClassVar, Self

from pydantic import Field, model_validator

from algorithms.objective import Options
from algorithms.objectives.anchored_regression import AnchoredRegression, RegressionOptions
from algorithms.sampling import Update


class EGPOOptions(RegressionOptions):
    """`beta`: temperature of the game (the paper's), weight of the KL to the reference. `alternate`: everything is
    written by the policy published last, current and half by turns, pairs too; with full weights one engine serves it,
    where the two need an engine each. What is solved is the same: pairs may come from any policy.
    """

    beta: float = Field(default=0.1, gt=0.0, allow_inf_nan=False)
    alternate: bool = False

    @model_validator(mode="after")
    def _fresh(self) -> Self:
        if self.opponent_staleness > 0:
            raise ValueError(
                f"opponent_staleness = {self.opponent_staleness} is not for egpo: against an opponent one update old "
                "extragradient is no better than plain mirror descent; set it to 0, or take optimistic_egpo with "
                "extrapolation = opponent_staleness + 1"
            )
        return self


class EGPO(AnchoredRegression[EGPOOptions]):
    """EGPO; see the module."""

    Options: ClassVar[type[Options]] = EGPOOptions
    name: ClassVar[str] = "egpo"
    staleness_tolerance: ClassVar[str] = (
        "Pairs may be of any age: they cost only coverage. Opponents may not: each phase needs those of the policy it "
        "names, current for the look-ahead and half for the step."
    )

    @property
    def update(self) -> Update:
        return Update(rule="extragradient", alternate=self.options.alternate)

    @property
    def scale(self) -> float:
        return 1.0 / self.options.beta

    @property
    def policy(self) -> str:
        return "latest" if self.options.alternate else "current"

    @property
    def opponent_policies(self) -> tuple[str, ...]:
        return ("latest",) if self.options.alternate else ("current", "half")
