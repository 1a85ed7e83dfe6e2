"""Figures that a run reports about itself."""

import torch
from torch import Tensor


def k1(log_ratio: Tensor) -> Tensor:
    """-l: unbiased for KL(pi || ref), may be negative, high variance.

    For k1, k2, k3 (Schulman 2020, "Approximating KL Divergence"): l = log ref(y) - log pi(y) with y ~ pi,
    nats, any shape.
    """
    return -log_ratio


def k2(log_ratio: Tensor) -> Tensor:
    """l^2 / 2: biased, low variance, non-negative."""
    return log_ratio.square() / 2.0


def k3(log_ratio: Tensor) -> Tensor:
    """exp(l) - 1 - l: unbiased and non-negative, with a heavy tail where ref is far above pi."""
    # Rounding of expm1 near zero can fall below l itself.
    return (torch.expm1(log_ratio) - log_ratio).clamp(min=0.0)


def overlap_efficiency(busy_generation: float, busy_learning: float, wall: float) -> float:
    """max(busy generation, busy learning) / wall, all in seconds; perfect overlap reaches the bound of 1."""
    if wall <= 0.0:
        raise ValueError(f"wall time must be positive, got {wall} s")
    return max(busy_generation, busy_learning) / wall


def mismatch(engine_logprobs: Tensor, learner_logprobs: Tensor) -> tuple[float, float]:
    """(KL(engine || learner) in nats, largest absolute difference in nats) on the engine's most likely tokens.

    Both [N], log-probabilities of the same tokens of one next-token distribution. Each term of the KL is weighted by
    the engine's probability and is non-negative (k3), so tokens left out can only be missing from the sum. A value
    that is not finite shows in the result.
    """
    if engine_logprobs.shape != learner_logprobs.shape or engine_logprobs.numel() == 0:
        raise ValueError(
            "need log-probabilities of the same tokens, at least one: "
            f"engine {tuple(engine_logprobs.shape)}, learner {tuple(learner_logprobs.shape)}"
        )
    engine = engine_logprobs.detach().double()
    log_ratio = learner_logprobs.detach().double() - engine
    return float((engine.exp() * k3(log_ratio)).sum()), float(log_ratio.abs().max())
