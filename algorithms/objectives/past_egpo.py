"""Past extragradient (Popov): EGPO's fixed point and rate with one batch of opponents an update. Our derivation.

    L(theta; q) = E_{y, y' ~ rho} ( h(y, y') - [P(y > q) - P(y' > q)] / beta )^2,   h against the reference
    theta <- step(theta; L(.; pi_theta')),   theta' = step(theta; same batch)

theta' is published as `half`, writes all candidates, and is the policy that is reported. The exact update is
lh = base(lp) + eta w(h_previous), lp+ = base(lp) + eta w(h) with base(lp) = (1 - eta beta) lp + eta beta log mu. It
is not in the EGPO paper (2503.08942); on tables it converges as fast as EGPO at half the samples.
"""

from typing import ClassVar

from pydantic import Field

from algorithms.objective import Options
from algorithms.objectives.anchored_regression import AnchoredRegression, RegressionOptions
from algorithms.sampling import Update


class PastEGPOOptions(RegressionOptions):
    """`beta`: temperature of the game, weight of the KL to the reference."""

    beta: float = Field(default=0.1, gt=0.0, allow_inf_nan=False)


class PastEGPO(AnchoredRegression[PastEGPOOptions]):
    """Past extragradient; see the module."""

    Options: ClassVar[type[Options]] = PastEGPOOptions
    name: ClassVar[str] = "past_egpo"
    staleness_tolerance: ClassVar[str] = (
        "Pairs may be of any age: they cost only coverage. Opponents are kept as fresh as `opponent_staleness` says; "
        "one update of age takes the look-ahead's advantage away."
    )

    @property
    def update(self) -> Update:
        return Update(rule="past_extragradient")

    @property
    def scale(self) -> float:
        return 1.0 / self.options.beta

    @property
    def policy(self) -> str:
        return "half"
