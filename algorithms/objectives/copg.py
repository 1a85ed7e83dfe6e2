"""CoPG, contrastive policy gradient, with win rates as rewards. Flet-Berliac et al. 2406.19185.

    ( [R(y) - beta log pi(y)/mu(y)] - [R(y') - beta log pi(y')/mu(y')] )^2,   R(y) = P(y > pi)

This is beta^2 times the loss of online IPO with the same win rates, and has the same minimiser lp+ = log mu + R/beta
for pairs from anywhere. The paper's R is a reward that does not depend on the policy; groups carry preferences and no
rewards, so here R is always a win rate against the current policy, estimated as `win_rates` says. The paper's beta:
UNCERTAIN.
"""

from typing import ClassVar

from torch import Tensor

from algorithms.objective import PairLogProbs
from algorithms.objectives.online_ipo import OnlineIPO


class CoPG(OnlineIPO):
    """CoPG on win rates; see the module. Options are those of online IPO."""

    name: ClassVar[str] = "copg"

    def loss(self, logprobs: PairLogProbs) -> Tensor:
        """Loss of each pair, [P]; `huber_delta` and `target_clip` stay in nats of log pi."""
        return self.options.beta**2 * super().loss(logprobs)
