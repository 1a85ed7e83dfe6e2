"""Log-probabilities of given tokens; no [N, V] table of logits ever exists, forward or backward."""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def token_logprobs(
    hidden: Tensor,
    head_weight: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    chunk_tokens: int = 512,
    head_bias: Tensor | None = None,
) -> Tensor:
    """log softmax((hidden W^T + b) / temperature)[target], nats: [N, d], [V, d], [N] int64 -> [N] float32.

    Logits are computed in the dtype of the inputs and reduced in float32 (in float64 if the inputs are),
    `chunk_tokens` positions at a time. With gradients each chunk is recomputed in the backward pass, so the
    peak is one chunk of [chunk_tokens, V] whatever N is. `temperature` must be the one that sampled the
    tokens.
    """
    if temperature <= 0.0 or chunk_tokens < 1:
        raise ValueError(f"need temperature > 0 and chunk_tokens >= 1, got {temperature} and {chunk_tokens}")
    leaves = [tensor for tensor in (hidden, head_weight, head_bias) if tensor is not None]
    recompute = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in leaves)
    chunks = []
    for start in range(0, max(len(targets), 1), chunk_tokens):
        span = slice(start, start + chunk_tokens)
        arguments = (hidden[span], head_weight, head_bias, targets[span], temperature)
        if recompute:
            chunks.append(checkpoint(_chunk, *arguments, use_reentrant=False, preserve_rng_state=False))
        else:
            chunks.append(_chunk(*arguments))
    return torch.cat(chunks)


def _chunk(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, temperature: float) -> Tensor:
    logits = torch.nn.functional.linear(hidden, weight, bias)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    return logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)


def sequence_sums(values: Tensor, segment_ids: Tensor, count: int) -> Tensor:
    """Sum of `values` [N] per sequence, [count], at least float32; `segment_ids` [N] int64 below `count`."""
    total = torch.zeros(count, dtype=torch.promote_types(values.dtype, torch.float32), device=values.device)
    return total.index_add(0, segment_ids, values.to(total.dtype))
