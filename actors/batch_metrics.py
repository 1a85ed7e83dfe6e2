"""Metrics of one batch as running sums, which add up over micro-batches and over workers."""

from collections.abc import Sequence

import numpy as np
import torch

from actors.work import SumOverWorkers, Work
from algorithms.diagnostics import k1, k3
from algorithms.objective import PairLogProbs


class Sums:
    """Running sums of a batch's metrics; they add up over micro-batches and over workers."""

    NAMES = (
        "groups", "candidates", "tokens", "truncated", "sampled_tokens", "negative_logprob", "pairs", "dropped_pairs",
        "loss", "margin", "correct", "chosen", "rejected", "sequences", "k1", "k3", "trained_tokens",
        "weight", "effective_opponents", "weighted_groups",
    )  # fmt: skip

    def __init__(self) -> None:
        self._values = dict.fromkeys(self.NAMES, 0.0)

    def add_group(self, work: Work) -> None:
        """Count a group, its candidates and its pairs."""
        candidates = work.group.candidates
        # A teacher's log-probabilities are unknown (NaN), and no part of the policy's entropy.
        known = [c.logprobs for c in candidates if not np.isnan(c.logprobs).any()]
        self._add(
            groups=1,
            candidates=len(candidates),
            tokens=sum(len(c.token_ids) for c in candidates),
            truncated=sum(c.truncated for c in candidates),
            sampled_tokens=sum(len(logprobs) for logprobs in known),
            negative_logprob=-float(sum(logprobs.sum() for logprobs in known)),
            pairs=len(work.pairs.first),
            dropped_pairs=work.pairs.dropped,
        )

    def add_pairs(self, batch: Sequence[Work], inputs: PairLogProbs, loss: torch.Tensor, margin: torch.Tensor) -> None:
        """Add the pairs of one micro-batch; `margin`: differences of their implicit rewards, [P]."""
        effective = [item.pairs.effective_opponents for item in batch]
        self._add(
            loss=loss.sum().item(),
            margin=margin.sum().item(),
            correct=(margin > 0).sum().item(),
            chosen=inputs.first.sum().item(),
            rejected=inputs.second.sum().item(),
            weight=float(sum(item.pairs.weight.sum() for item in batch)),
            effective_opponents=sum(size for size in effective if size is not None),
            weighted_groups=sum(size is not None for size in effective),
        )

    def add_sequences(self, log_ratio: torch.Tensor, tokens: int) -> None:
        """Add the log-ratios (policy to reference, nats) of one micro-batch's sequences."""
        self._add(
            sequences=len(log_ratio),
            k1=k1(-log_ratio).sum().item(),
            k3=k3(-log_ratio).sum().item(),
            trained_tokens=tokens,
        )

    def metrics(self, add: SumOverWorkers, device: torch.device) -> dict[str, float]:
        """Means over the whole batch, over all workers."""
        total = add(torch.tensor([self._values[name] for name in self.NAMES], dtype=torch.float64, device=device))
        value = dict(zip(self.NAMES, total.tolist(), strict=True))
        pairs, sequences = max(value["pairs"], 1.0), max(value["sequences"], 1.0)
        return {
            "loss": value["loss"] / pairs,
            "margin": value["margin"] / pairs,
            "accuracy": value["correct"] / pairs,
            "chosen_logprob": value["chosen"] / pairs,
            "rejected_logprob": value["rejected"] / pairs,
            "kl": value["k1"] / sequences,
            "kl_k3": value["k3"] / sequences,
            "entropy": value["negative_logprob"] / max(value["sampled_tokens"], 1.0),
            "length_mean": value["tokens"] / max(value["candidates"], 1.0),
            "truncated_share": value["truncated"] / max(value["candidates"], 1.0),
            "pairs": value["pairs"],
            "dropped_pairs": value["dropped_pairs"],
            "pair_weight": value["weight"] / pairs,
            "effective_opponents": value["effective_opponents"] / max(value["weighted_groups"], 1.0),
            "batch_groups": value["groups"],
            "batch_completions": value["candidates"],
            "batch_generated_tokens": value["tokens"],
            "batch_trained_tokens": value["trained_tokens"],
        }

    def _add(self, **values: float) -> None:
        for name, value in values.items():
            self._values[name] += value
