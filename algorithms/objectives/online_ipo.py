"""Online IPO: the regularised game by mirror descent, opponents of the current policy. Calandriello et al. 2403.08635.

One-sample form (OIPO1 of 2503.08942's code; `win_rates` 'opponents'):

    E_{y, y' ~ rho, y'' ~ pi} ( h(y, y') - [P(y > y'') - P(y' > y'')] / beta )^2,   h against the reference

Two-sample form (OIPO2, the paper's; `win_rates` 'labels'), right only while the pairs come from the policy itself:

    E_{y, y' ~ pi} ( h(y, y') - [P(y > y') - 1/2] / beta )^2,   with hard labels +-1/2 in the place of P - 1/2

beta is the paper's tau. The exact update is lp+ = (1 - eta beta) lp + eta beta log mu + eta w(pi), where eta beta
follows from the learning rate. It converges to the regularised equilibrium where eta (beta^2 + s^2) < 2 beta (s: the
rotation rate of the game) and diverges beyond, where EGPO does not.
"""

from typing import ClassVar

from pydantic import Field

from algorithms.objective import Options
from algorithms.objectives.estimated_regression import EstimatedRegression, MovingOptions
from algorithms.sampling import Update


class OnlineIPOOptions(MovingOptions):
    """`beta`: temperature of the game (tau), weight of the KL to the reference."""

    beta: float = Field(default=0.1, gt=0.0, allow_inf_nan=False)


class OnlineIPO(EstimatedRegression[OnlineIPOOptions]):
    """Online IPO; see the module."""

    Options: ClassVar[type[Options]] = OnlineIPOOptions
    name: ClassVar[str] = "online_ipo"
    staleness_tolerance: ClassVar[str] = (
        "With win_rates 'opponents' pairs may be of any age and opponents as old as `opponent_staleness`; otherwise "
        "the pairs are the opponents. Opponents d updates old are stable while eta s^2 (d + 1/2) < beta."
    )

    @property
    def update(self) -> Update:
        return Update(momentum=self.options.momentum)

    @property
    def scale(self) -> float:
        return 1.0 / self.options.beta
