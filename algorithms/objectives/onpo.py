"""ONPO: optimistic mirror descent on the unregularised game, with an auxiliary policy. Zhang et al. 2502.16852.

    g(pi; pi') = log pi(y)/pi(y') - log pi'(y)/pi'(y'),   pairs from pi_t, each policy trained on the same pairs:
    pi'_{t+1} = argmin E ( g(pi; pi'_t)     - eta [P(y > y') - 1/2] )^2
    pi_{t+1}  = argmin E ( g(pi; pi'_{t+1}) - eta [P(y > y') - 1/2] )^2,   hard labels: +-eta/2

The auxiliary policy pi' is the learner's theta, pi is published as `half`, writes all candidates, and is reported; each
argmin is one optimizer step, anchored where it starts. The exact update is l'_{t+1} = l'_t + eta w(pi_t),
lp_{t+1} = l'_{t+1} + eta w(pi_t), whose last iterate converges in the unregularised game where multiplicative weights
circle. `win_rates` 'opponents' is the three-sample form, our derivation, in which pairs may be old.
"""

from typing import ClassVar

from pydantic import Field

from algorithms.objective import Anchor, Options
from algorithms.objectives.estimated_regression import EstimatedRegression, Estimator, EstimatorOptions
from algorithms.sampling import Update


class ONPOOptions(EstimatorOptions):
    """`step_size`: eta."""

    win_rates: Estimator = "labels"
    step_size: float = Field(default=10.0, gt=0.0, allow_inf_nan=False)

    def _correctable(self) -> None:
        raise ValueError(
            "opponent_correction 'truncated' weights to the policy that is trained, and onpo's opponents are those of "
            "its other policy; set it to 'none'"
        )


class ONPO(EstimatedRegression[ONPOOptions]):
    """ONPO; see the module."""

    Options: ClassVar[type[Options]] = ONPOOptions
    name: ClassVar[str] = "onpo"
    staleness_tolerance: ClassVar[str] = (
        "In the two-sample form pairs are the opponents: older ones change the game, so `opponent_staleness` bounds "
        "them. In the three-sample form pairs may be of any age and only opponents are bounded."
    )

    @property
    def anchor(self) -> Anchor:
        return Anchor(reference=0.0, iterate=1.0)

    @property
    def update(self) -> Update:
        return Update(rule="past_extragradient")

    @property
    def scale(self) -> float:
        return self.options.step_size

    @property
    def policy(self) -> str:
        return "half"
