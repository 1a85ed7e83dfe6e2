"""Policy gradient over a group, written as a loss of pairs.

    loss(i, j) = -1/2 (A_i - A_j) (w_i log pi(y_i) - w_j log pi(y_j)),   A and w without gradient

Summed over i < j, (A_i - A_j)(g_i - g_j) is K sum_i (A_i - mean A) g_i; so the mean over all pairs of a group of K is
the gradient with leave-one-out baseline, 1/K sum_i (A_i - mean_{j != i} A_j) w_i grad log pi(y_i) (RLOO). Identical
candidates keep their pairs, which add nothing but count in the mean.
w = min(exp(clip(log pi - log behaviour, -20, 20)), `weight_cap`) corrects for candidates that are not the current
policy's, up to the truncation.
"""

from typing import Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from algorithms.objective import Options, PairLogProbs
from algorithms.win_rates import LOG_RATIO_LIMIT


class PolicyGradientOptions(Options):
    """`candidates`: K, completions of a prompt. `opponent_staleness`: updates that may lie between their sampling and
    training. `importance_weights`: w as in the module, or one. `weight_cap`: bound of a weight.
    """

    candidates: int = Field(default=4, ge=2)
    opponent_staleness: int = Field(default=0, ge=0)
    importance_weights: Literal["truncated", "none"] = "truncated"
    weight_cap: float = Field(default=2.0, ge=1.0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _cap_is_read(self) -> Self:
        if self.weight_cap != type(self).model_fields["weight_cap"].default and self.importance_weights == "none":
            raise ValueError(f"weight_cap = {self.weight_cap} needs importance_weights 'truncated'")
        return self

    def weighted(self, logprobs: Tensor, behaviour: Tensor) -> Tensor:
        """w log pi, [P], with the gradient of log pi alone."""
        if self.importance_weights == "none":
            return logprobs
        ratio = (logprobs.detach() - behaviour).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
        return ratio.exp().clamp(max=self.weight_cap) * logprobs


def policy_gradient(logprobs: PairLogProbs, advantage: Tensor, options: PolicyGradientOptions) -> Tensor:
    """Loss of each pair, [P]; `advantage` [P] is A_first - A_second, of which no gradient is taken."""
    first = options.weighted(logprobs.first, logprobs.behaviour_first)
    second = options.weighted(logprobs.second, logprobs.behaviour_second)
    return -0.5 * advantage.detach() * (first - second)
