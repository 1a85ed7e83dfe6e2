"""INPO: mirror descent on the regularised game, with the step in the loss. Zhang et al. 2407.00617.

    h_t(y, y') = log pi(y)/pi(y') - eta beta log mu(y)/mu(y') - (1 - eta beta) log pi_t(y)/pi_t(y')

Two-sample form (`win_rates` 'labels', eq. 8 with labels 'hard'), pairs from pi_t:

    E_{y, y' ~ pi_t} ( h_t(y, y') - eta [P(y > y') - 1/2] )^2,   hard labels: +-eta/2

Three-sample form (`win_rates` 'opponents'; our derivation), which tolerates old pairs:

    E_{y, y' ~ rho, y'' ~ pi_t} ( h_t(y, y') - eta [P(y > y'') - P(y' > y'')] )^2

eta is a step; the paper writes its inverse: eta_INPO = 1/eta and tau = beta, by default 0.005 and eta_INPO/3. The
minimiser is lp+ = (1 - eta beta) lp_t + eta beta log mu + eta w(pi_t). The paper keeps the best and the worst of a
tournament of eight, which is no pair of independent samples; here every pair of a group is trained.
"""

from typing import ClassVar, Self

from pydantic import Field, model_validator

from algorithms.objective import Anchor, Options
from algorithms.objectives.estimated_regression import Estimator, IterativeOptions, IterativeRegression


class INPOOptions(IterativeOptions):
    """`beta`: temperature of the game (tau); `step_size` * `beta` is the reference's share of the anchor, at most 1."""

    win_rates: Estimator = "labels"
    beta: float = Field(default=0.1, gt=0.0, allow_inf_nan=False)
    step_size: float = Field(default=3.0, gt=0.0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _anchor_between(self) -> Self:
        if self.step_size * self.beta > 1.0:
            raise ValueError(
                f"inpo needs step_size * beta <= 1, got {self.step_size:g} * {self.beta:g} = "
                f"{self.step_size * self.beta:g}; take step_size <= {1.0 / self.beta:g}"
            )
        return self


class INPO(IterativeRegression[INPOOptions]):
    """INPO; see the module."""

    Options: ClassVar[type[Options]] = INPOOptions
    name: ClassVar[str] = "inpo"
    staleness_tolerance: ClassVar[str] = (
        "In the two-sample form pairs are the opponents: older ones change the game, so `opponent_staleness` bounds "
        "them. In the three-sample form pairs may be of any age and only opponents are bounded."
    )

    @property
    def anchor(self) -> Anchor:
        share = self.options.step_size * self.options.beta
        return Anchor(reference=share, iterate=1.0 - share)
