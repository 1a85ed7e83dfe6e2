"""Log-probabilities of given tokens; no [N, V] table of logits ever exists, forward or backward."""

from typing import Any

import torch
from torch import Tensor


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

    Logits are computed in the dtype of the inputs (under autocast in its dtype) and reduced in float32 (in float64
    if the inputs are), `chunk_tokens` positions at a time. The backward pass computes each chunk's logits again, so
    the peak is one chunk of [chunk_tokens, V] whatever N is. `temperature` must be the one that sampled the tokens.
    """
    if temperature <= 0.0 or chunk_tokens < 1:
        raise ValueError(f"need temperature > 0 and chunk_tokens >= 1, got {temperature} and {chunk_tokens}")
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        hidden, head_weight = hidden.to(dtype), head_weight.to(dtype)
        head_bias = None if head_bias is None else head_bias.to(dtype)
    arguments = (hidden, head_weight, head_bias, targets, temperature, chunk_tokens)
    result: Tensor = _ChunkedLogProbs.apply(*arguments)  # type: ignore[no-untyped-call]
    return result


class _ChunkedLogProbs(torch.autograd.Function):
    """d logp(target) / d logits = onehot(target) - softmax, chunk by chunk and in place."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        chunk: int,
    ) -> Tensor:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        normaliser = torch.empty(len(targets), dtype=wide, device=hidden.device)
        result = torch.empty_like(normaliser)
        for part in _parts(len(targets), chunk):
            logits = _logits(hidden[part], weight, bias, temperature)
            normaliser[part] = logits.logsumexp(-1)
            result[part] = logits.gather(-1, targets[part].unsqueeze(-1)).squeeze(-1) - normaliser[part]
        ctx.save_for_backward(hidden, weight, bias, targets, normaliser)
        ctx.temperature, ctx.chunk = temperature, chunk
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, normaliser = ctx.saved_tensors
        (direction,) = gradients
        to_hidden = torch.zeros_like(hidden)
        # Sums over chunks would lose small terms in half precision.
        to_weight = torch.zeros_like(weight, dtype=normaliser.dtype) if ctx.needs_input_grad[1] else None
        to_bias = torch.zeros_like(bias, dtype=normaliser.dtype) if ctx.needs_input_grad[2] else None
        for part in _parts(len(targets), ctx.chunk):
            slope = _logits(hidden[part], weight, bias, ctx.temperature).sub_(normaliser[part, None]).exp_()
            slope.mul_(-direction[part, None])
            slope.scatter_add_(-1, targets[part, None], direction[part, None])
            slope = slope.div_(ctx.temperature).to(hidden.dtype)
            to_hidden[part] = slope @ weight
            if to_weight is not None:
                to_weight += slope.T @ hidden[part]
            if to_bias is not None:
                to_bias += slope.sum(0)
        return to_hidden, _like(to_weight, weight), _like(to_bias, bias), None, None, None


def _like(gradient: Tensor | None, parameter: Tensor) -> Tensor | None:
    return None if gradient is None else gradient.to(parameter.dtype)


def _parts(count: int, chunk: int) -> list[slice]:
    return [slice(start, start + chunk) for start in range(0, count, chunk)]


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    logits = torch.nn.functional.linear(hidden, weight, bias)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return wide if temperature == 1.0 else wide.div_(temperature)


def sequence_sums(values: Tensor, segment_ids: Tensor, count: int) -> Tensor:
    """Sum of `values` [N] per sequence, [count], at least float32; `segment_ids` [N] int64 below `count`."""
    total = torch.zeros(count, dtype=torch.promote_types(values.dtype, torch.float32), device=values.device)
    return total.index_add(0, segment_ids, values.to(total.dtype))
