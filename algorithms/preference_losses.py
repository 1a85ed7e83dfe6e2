"""Losses that train preference models, elementwise, to be minimised; and the scores of a skew-symmetric embedding.

`target` is P(first > second), in [0, 1]: a soft label, such as a share of votes, is a target like any other. Every
function keeps the dtype of its input, and every pair loss is unchanged when a pair is turned round (first and second
exchanged, target to 1 - target, margin to -margin).
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, logsigmoid

from algorithms.pair_losses import logistic_soft


def smoothed(target: Tensor, smoothing: float) -> Tensor:
    """(1 - e) P + e (1 - P): the target, [P], if a share e < 1/2 of the labels is taken to be reversed."""
    return target + smoothing * (1.0 - 2.0 * target)


def bradley_terry(difference: Tensor, target: Tensor, margin: Tensor | float = 0.0) -> Tensor:
    """Cross-entropy of sigma(r_1 - r_2 - m) with the target, [P]; P(first > second) = sigma(r_1 - r_2).

    `difference`: of the rewards, r_1 - r_2, [P]. `margin` m in units of reward, positive where the first has to win
    clearly, and negative where the second has. Target 1 gives -log sigma(r_1 - r_2 - m): Touvron et al. 2307.09288,
    eq. 2.
    """
    return logistic_soft(difference - margin, 1.0, target)


def skew_scores(embeddings: Tensor) -> Tensor:
    """s(i > j) = v_i^T R v_j for K embeddings [K, 2k], R = blockdiag([[0, 1], [-1, 0]]), [K, K].

    In two dimensions s = v_i0 v_j1 - v_i1 v_j0. Exactly antisymmetric, 0 on the diagonal. Zhang et al. 2410.02197;
    their optional weights of the blocks, a function of the prompt, are left to the embeddings, which know the prompt.
    """
    product = embeddings[:, 0::2] @ embeddings[:, 1::2].T
    return product - product.T


def skew_score(first: Tensor, second: Tensor) -> Tensor:
    """s(first > second) of P pairs of embeddings [P, 2k], [P]: the entries of `skew_scores` that belong to them."""
    return (first[:, 0::2] * second[:, 1::2] - first[:, 1::2] * second[:, 0::2]).sum(-1)


def general_preference(score: Tensor, target: Tensor, temperature: float, margin: Tensor | float = 0.0) -> Tensor:
    """GPM: cross-entropy of sigma((s(first > second) - m) / tau) with the target, [P]. Zhang et al. 2410.02197.

    `score`: s of `skew_score`, [P]; `temperature` tau > 0 (0.1 in their code); `margin` m in units of s.
    """
    return logistic_soft(score - margin, 1.0 / temperature, target)


def two_label(difference: Tensor, target: Tensor, margin: Tensor | float = 0.0) -> Tensor:
    """Cross-entropy over two label tokens, [P].

    `difference`: logit of the label of the response shown first, minus that of the second's, [P]; `margin` in the same
    units. The model of Dong et al. 2405.07863, trained there by the likelihood of the label over the vocabulary.
    """
    return logistic_soft(difference - margin, 1.0, target)


def masked_squared_error(predictions: Tensor, targets: Tensor) -> Tensor:
    """(prediction - target)^2, [N, H]; 0 without any gradient where an attribute is missing (its target is NaN)."""
    present = ~targets.isnan()
    return torch.where(present, predictions - targets.nan_to_num(), 0.0).square()


def goal_positions(chosen: int, rejected: int, uniforms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Places that `goal_contrast` compares, from `uniforms` [3, S] in [0, 1): source, goal and other goal, each [S].

    Source and goal lie in the chosen answer of `chosen` tokens, the goal not before the source (two sorted uniform
    fractions of it); the other goal lies in the rejected answer of `rejected` tokens.
    """
    fractions = uniforms[:2].sort(0).values
    source, goal = (fractions * chosen).long()
    return source, goal, (uniforms[2] * rejected).long()


def goal_contrast(source: Tensor, goal: Tensor, other: Tensor) -> Tensor:
    """-log P - log(1 - Q), a scalar: Nath et al. 2407.13887, added to the pair loss with weight 0.5 there.

    P = mean sigma(cos(source, goal)) and Q = mean sigma(cos(source, other)) over S pairs of hidden states [S, d]; see
    `goal_positions`. Cosines lie in [-1, 1], so the term lies in [2 log(1 + 1/e), 2 log(1 + e)].
    """
    reached = cosine_similarity(source, goal, dim=-1)
    missed = cosine_similarity(source, other, dim=-1)
    count = math.log(reached.shape[-1])
    # log of the mean of sigma, and 1 - Q = mean sigma(-cos).
    return 2.0 * count - logsigmoid(reached).logsumexp(-1) - logsigmoid(-missed).logsumexp(-1)
