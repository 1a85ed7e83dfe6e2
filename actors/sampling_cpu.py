"""Sampling on CPU engines with one random number a token, and without a compiler.

vLLM's CPU kernel makes noise for every entry of the vocabulary at every token: with small models and large vocabularies
that is a good part of generation. The cumulative distribution at one uniform number has the same law. The ranks of
sampled tokens are counted by a compiled function, which every engine compiles for seconds at its first token.
"""

from typing import Any

import torch
from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler, apply_top_k_top_p

Generators = dict[int, torch.Generator]


def draw(logprobs: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """The first token whose cumulative probability exceeds `uniform`: [n, V] nats, [n] in [0, 1) -> [n] int64.

    Tokens of probability 0 are never drawn; others as often as float32 can tell their probabilities' running sum. Where
    the probabilities are no numbers it is the last token: a proof refuses such weights, and the engine goes on.
    """
    cumulative = logprobs.exp().cumsum_(-1)
    total = cumulative[:, -1:]
    # A product that is rounded up to the total would lie beyond the last token.
    below = torch.nextafter(total, torch.zeros_like(total))
    place = torch.minimum(uniform.to(total.dtype)[:, None] * total, below)
    return torch.searchsorted(cumulative, place, right=True).squeeze(-1).clamp_(max=logprobs.shape[-1] - 1)


def uniforms(rows: int, generators: Generators) -> torch.Tensor:
    """[rows] in [0, 1): a request with a seed takes its number from its own generator alone."""
    numbers = torch.rand(rows)
    for row, generator in generators.items():
        numbers[row] = torch.rand((), generator=generator)
    return numbers


def token_ranks(logprobs: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """How many entries of a row are at least the row's value: [n, V], [n, 1] -> [n] int64; exact up to V = 2^24."""
    # Into floats, because booleans are summed several times slower.
    return torch.ge(logprobs, values, out=torch.empty_like(logprobs)).sum(-1).long()


class CumulativeSampler(TopKTopPSampler):
    """vLLM's sampler with `draw` in place of its noise."""

    def forward_cpu(
        self,
        logits: torch.Tensor,
        generators: Generators,
        k: torch.Tensor | None,
        p: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """[n, V] logits at temperature 1 -> [n] int64 tokens, and what `logprobs_mode` asks for, [n, V]."""
        logits = apply_top_k_top_p(logits, k, p)
        logprobs = logits.log_softmax(dim=-1, dtype=torch.float32)
        returned: dict[str, Any] = {"processed_logprobs": logprobs, "processed_logits": logits}
        return draw(logprobs, uniforms(len(logits), generators)), returned.get(self.logprobs_mode)


def install() -> None:
    """Make CPU engines of this process use them; called before the model is loaded."""
    from vllm.v1.sample import sampler

    sampler.TopKTopPSampler = CumulativeSampler
    sampler.batched_count_greater_than = token_ranks
