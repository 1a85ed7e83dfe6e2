"""Pairwise losses as pure functions of the margin h = c(y_w) - c(y_l), elementwise, to be minimised.

`margin` is [P] in nats with the preferred candidate first, `beta` and `tau` are positive inverse
temperatures, `target` is P(first > second). Sums of log-probabilities are meant everywhere except in
`ipo_length_averaged`, whose tau lives on another scale. Every function keeps the dtype of its input.
"""

from torch import Tensor
from torch.nn.functional import logsigmoid

from algorithms.objective import PairLogProbs


def logistic(margin: Tensor, beta: float) -> Tensor:
    """DPO: -log sigma(beta h). Rafailov et al. 2305.18290, eq. 7."""
    return -logsigmoid(beta * margin)


def logistic_soft(margin: Tensor, beta: float, target: Tensor | float) -> Tensor:
    """Cross-entropy with P: -P log sigma(beta h) - (1 - P) log sigma(-beta h); optimum beta h = logit(P)."""
    return -target * logsigmoid(beta * margin) - (1.0 - target) * logsigmoid(-beta * margin)


def logistic_conservative(margin: Tensor, beta: float, flip_rate: float) -> Tensor:
    """cDPO: cross-entropy with P = 1 - e, e < 1/2: optimum beta h = logit(1 - e), so margins stay bounded."""
    return logistic_soft(margin, beta, 1.0 - flip_rate)


def logistic_robust(margin: Tensor, beta: float, flip_rate: float) -> Tensor:
    """rDPO: [-(1 - e) log sigma(beta h) + e log sigma(-beta h)] / (1 - 2e). Ray Chowdhury et al. 2403.00409.

    Unbiased: its mean over labels flipped with probability e < 1/2 is the DPO loss of the clean label.
    Unbounded below, and the variance grows with 1 / (1 - 2e)^2.
    """
    preferred, flipped = logistic(margin, beta), logistic(-margin, beta)
    return ((1.0 - flip_rate) * preferred - flip_rate * flipped) / (1.0 - 2.0 * flip_rate)


def ipo(margin: Tensor, tau: float) -> Tensor:
    """IPO with hard labels, sums: (h - 1 / (2 tau))^2. Azar et al. 2310.12036, eq. 17."""
    return (margin - 1.0 / (2.0 * tau)).square()


def ipo_soft(margin: Tensor, tau: float, target: Tensor | float) -> Tensor:
    """IPO with a known win probability, sums: (h - (P - 1/2) / tau)^2; P = 1 is the hard form."""
    return (margin - (target - 0.5) / tau).square()


def ipo_length_averaged(logprobs: PairLogProbs, tau: float) -> Tensor:
    """IPO on per-token averages, as TRL's offline trainer: (c_w / |y_w| - c_l / |y_l| - 1 / (2 tau))^2."""
    first = (logprobs.first - logprobs.anchor_first) / logprobs.first_length.clamp(min=1)
    second = (logprobs.second - logprobs.anchor_second) / logprobs.second_length.clamp(min=1)
    return ipo(first - second, tau)


def hinge(margin: Tensor, beta: float) -> Tensor:
    """max(0, 1 - beta h): SLiC (2305.10425) on log-ratios to an anchor."""
    return (1.0 - beta * margin).clamp(min=0.0)
