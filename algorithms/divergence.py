"""How far a policy is from its reference, and how spread out it is, from whole next-token distributions.

Where logits are at hand these are exact for each position, so that only the positions are sampled; the estimates from
sampled tokens alone (k1, k2, k3) are in `algorithms.diagnostics`. Everything is in nats and reduced in at least
float32.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class TopTokens:
    """The k most likely next tokens at each position, any shape.

    The signals of likelihood over-optimisation (Shi et al. 2024, arXiv 2410.11677): entropy that fell begins to rise
    while the mass begins to shrink. UNCERTAIN in that paper: whether the entropy is renormalised, and k; so both
    entropies are here, and k is the caller's (10 by default).
    """

    mass: Tensor
    """M_k = sum of their probabilities."""
    entropy: Tensor
    """H_k = - sum p log p over them, as they are."""
    renormalised_entropy: Tensor
    """The same of p / M_k: H_k / M_k + log M_k, between 0 and log k."""


def kl_divergence(logits: Tensor, reference_logits: Tensor) -> Tensor:
    """KL(pi || ref) of next-token distributions, [..., V], [..., V] -> [...].

    On tokens that pi sampled, the sum over positions is an unbiased estimate of the KL of whole sequences (chain
    rule), of lower variance than k1. A token that pi never takes (logit -inf) adds nothing.
    """
    if logits.shape != reference_logits.shape:
        raise ValueError(
            f"both policies need one vocabulary: logits {tuple(logits.shape)} and {tuple(reference_logits.shape)}"
        )
    log_p, log_q = _log_softmax(logits), _log_softmax(reference_logits)
    terms = log_p.exp() * (log_p - log_q)
    # Rounding alone can make the sum of two equal distributions negative.
    return torch.where(log_p == -torch.inf, 0.0, terms).sum(-1).clamp(min=0.0)


def entropy(logits: Tensor) -> Tensor:
    """- sum p log p, [..., V] -> [...]."""
    return _entropy(_log_softmax(logits))


def top_tokens(logits: Tensor, k: int = 10) -> TopTokens:
    """Mass and entropy of the k most likely tokens at each position, [..., V] -> [...]."""
    if not 1 <= k <= logits.shape[-1]:
        raise ValueError(f"k is 1 to the vocabulary's {logits.shape[-1]} tokens, got {k}")
    best = _log_softmax(logits).topk(k).values
    mass = best.exp().sum(-1)
    return TopTokens(mass=mass, entropy=_entropy(best), renormalised_entropy=_entropy(best - mass.log().unsqueeze(-1)))


def _entropy(log_p: Tensor) -> Tensor:
    return -torch.where(log_p == -torch.inf, 0.0, log_p.exp() * log_p).sum(-1)


def _log_softmax(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
