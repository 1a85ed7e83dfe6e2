"""Pairwise losses as pure functions, elementwise, to be minimised; the preferred candidate of each pair is first.

`margin` is h = c(y_w) - c(y_l) [P] in nats with c = log pi - log anchor; losses that need more take `PairLogProbs`.
`beta` and `tau` are positive inverse temperatures, `target` is P(first > second). Sums of log-probabilities are meant
unless a docstring says average: there |y| is the number of tokens, and temperatures live on another scale. Every
function keeps the dtype of its input.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from algorithms.objective import PairLogProbs

Divergence = Literal["reverse_kl", "forward_kl", "jensen_shannon", "alpha"]

# exp of a log-ratio beyond this, in nats, goes on as its tangent: squares of its gradient still fit into float32.
_EXPONENT_LIMIT = 30.0


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


def divergence_margin(logprobs: PairLogProbs, divergence: Divergence, alpha: float) -> Tensor:
    """f'(u_w) - f'(u_l) with u = exp(c), [P]: what takes the place of h in f-DPO. Wang et al. 2309.16240.

    Up to constants: reverse KL f' = c, forward KL -exp(-c), Jensen-Shannon log sigma(c) (which saturates: no push on
    what is already likely), alpha (1 - exp(-alpha c)) / alpha with the paper's alpha in (0, 1), between reverse KL at
    0 and forward KL at 1. (TRL's coefficient is 1 - alpha.) Exponentials of sequence log-ratios overflow: beyond 30
    nats they continue as their tangent.
    """
    first, second = logprobs.first_ratio, logprobs.second_ratio
    match divergence:
        case "reverse_kl":
            return first - second
        case "forward_kl":
            return _bounded_exp(-second) - _bounded_exp(-first)
        case "jensen_shannon":
            return logsigmoid(first) - logsigmoid(second)
        case "alpha":
            return (_bounded_exp(-alpha * second) - _bounded_exp(-alpha * first)) / alpha


def _bounded_exp(exponent: Tensor) -> Tensor:
    inside = exponent.clamp(max=_EXPONENT_LIMIT)
    return inside.exp() * (1.0 + (exponent - inside))


def ipo(margin: Tensor, tau: float) -> Tensor:
    """IPO with hard labels, sums: (h - 1 / (2 tau))^2. Azar et al. 2310.12036, eq. 17."""
    return (margin - 1.0 / (2.0 * tau)).square()


def ipo_soft(margin: Tensor, tau: float, target: Tensor | float) -> Tensor:
    """IPO with a known win probability, sums: (h - (P - 1/2) / tau)^2; P = 1 is the hard form."""
    return (margin - (target - 0.5) / tau).square()


def ipo_length_averaged(logprobs: PairLogProbs, tau: float) -> Tensor:
    """IPO on per-token averages, as TRL's offline trainer: (c_w / |y_w| - c_l / |y_l| - 1 / (2 tau))^2."""
    return ipo(logprobs.length_averaged().margin, tau)


def logistic_length_averaged(logprobs: PairLogProbs, beta: float) -> Tensor:
    """DPO on per-token averages: -log sigma(beta (c_w / |y_w| - c_l / |y_l|)). Tulu 3, 2411.15124."""
    return logistic(logprobs.length_averaged().margin, beta)


def hinge(margin: Tensor, beta: float) -> Tensor:
    """max(0, 1 - beta h): SLiC (2305.10425) on log-ratios to an anchor."""
    return (1.0 - beta * margin).clamp(min=0.0)


def slic(logprobs: PairLogProbs, delta: float) -> Tensor:
    """SLiC-HF, ranking part: max(0, delta - log pi(y_w) + log pi(y_l)); no anchor. Zhao et al. 2305.10425."""
    return (delta - logprobs.first + logprobs.second).clamp(min=0.0)


def simpo(logprobs: PairLogProbs, beta: float, gamma: float) -> Tensor:
    """-log sigma(beta (log pi(y_w) / |y_w| - log pi(y_l) / |y_l|) - gamma); no anchor. Meng et al. 2405.14734."""
    average = logprobs.length_averaged()
    return -logsigmoid(beta * (average.first - average.second) - gamma)


def asft(logprobs: PairLogProbs) -> Tensor:
    """ASFT, alignment part: -log sigma(o_w) - log sigma(-o_l) = -log p_w - log(1 - p_l). 2409.10571.

    o is the log-odds of p = exp(log pi(y) / |y|), the geometric mean of the token probabilities; no anchor.
    """
    average = logprobs.length_averaged()
    return -average.first - _log1mexp(average.second)


def orpo(logprobs: PairLogProbs) -> Tensor:
    """ORPO, alignment part: -log sigma(o_w - o_l) with the log-odds of `asft`. Hong et al. 2403.07691."""
    average = logprobs.length_averaged()
    log_odds = average.first - average.second - _log1mexp(average.first) + _log1mexp(average.second)
    return -logsigmoid(log_odds)


def _log1mexp(values: Tensor) -> Tensor:
    """log(1 - exp(x)) for x <= 0; finite at certainty."""
    return torch.log(-torch.expm1(values.clamp(max=-torch.finfo(values.dtype).eps)))


def sppo_hard(logprobs: PairLogProbs, beta: float) -> Tensor:
    """(c_w - 1 / (2 beta))^2 + (c_l + 1 / (2 beta))^2: SPPO (2405.00675) with step 1 / beta, winning surely."""
    target = 1.0 / (2.0 * beta)
    return (logprobs.first_ratio - target).square() + (logprobs.second_ratio + target).square()


def likelihood(logprobs: PairLogProbs) -> Tensor:
    """-log pi(y_w): the supervised term of SLiC-HF and, times beta, of RPO after Liu et al. 2405.16436."""
    return -logprobs.first


def likelihood_length_averaged(logprobs: PairLogProbs) -> Tensor:
    """-log pi(y_w) / |y_w|: the supervised term of RPO after Pang et al. 2404.19733, of ASFT and of ORPO."""
    return -logprobs.length_averaged().first
