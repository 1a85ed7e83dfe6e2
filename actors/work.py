"""A group reduced to what its pairs need, and the pairs' log-probabilities from those of the group's sequences."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from actors.records import Group, derive_seed
from algorithms.layout import Layout, pack_groups
from algorithms.objective import Objective, PairLogProbs
from algorithms.pairs import Pairs

SumOverWorkers = Callable[[torch.Tensor], torch.Tensor]
"""Adds a tensor over all data-parallel workers, in place."""


def alone(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over one worker."""
    return tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A group with its pairs."""

    group: Group
    seed: int
    """The pairs were chosen with it."""
    pairs: Pairs
    used: NDArray[np.int64]
    """Candidates that need a log-probability, ascending."""

    @property
    def tokens(self) -> int:
        """Tokens of the group's place in a packed row."""
        return len(self.group.prompt_ids) + sum(len(self.group.candidates[k].token_ids) for k in self.used)

    def behaviour(self) -> NDArray[np.float64]:
        """[U], nats: log-probability of each used candidate under the distribution that sampled it."""
        return np.array([self.group.candidates[k].logprobs.sum(dtype=np.float64) for k in self.used])

    def corrected(self, objective: Objective, logprobs: NDArray[np.float64]) -> "Work":
        """The same pairs, with the opponents weighted by what the policy, [U] nats, gives to them now."""
        log_ratios = np.zeros(len(self.group.candidates))
        log_ratios[self.used] = logprobs - self.behaviour()
        return replace(self, pairs=_pairs(objective, self.group, self.seed, log_ratios))


def work_of(objective: Objective, group: Group, run_seed: int) -> Work:
    """Draw the pairs of a scored group."""
    seed = derive_seed(run_seed, "pairs", group.index)
    pairs = _pairs(objective, group, seed, None)
    used = np.union1d(pairs.first, pairs.second)
    if objective.corrects_opponents and len(pairs):
        used = np.union1d(used, np.array(objective.sampling.indices("opponent"), dtype=np.int64))
    return Work(group=group, seed=seed, pairs=pairs, used=used)


def layout_of(batch: Sequence[Work], share_prompts: bool) -> Layout:
    """The packed row of a micro-batch."""
    groups = [
        (item.group.prompt_ids.tolist(), [item.group.candidates[k].token_ids.tolist() for k in item.used])
        for item in batch
    ]
    return pack_groups(groups, share_prompts)


def pair_inputs(batch: Sequence[Work], logprobs: torch.Tensor, anchor: torch.Tensor) -> PairLogProbs:
    """Log-probabilities of the batch's P pairs from those of its S sequences, both [S]."""
    offsets = np.cumsum([0, *(len(item.used) for item in batch)])

    def places(side: str) -> torch.Tensor:
        parts = [o + np.searchsorted(w.used, getattr(w.pairs, side)) for o, w in zip(offsets, batch, strict=False)]
        return torch.from_numpy(np.concatenate(parts)).to(device)

    def column(name: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        values = np.concatenate([getattr(item.pairs, name) for item in batch])
        return torch.from_numpy(values).to(device, dtype)

    device = logprobs.device
    i, j = places("first"), places("second")
    lengths = torch.tensor([len(w.group.candidates[k].token_ids) for w in batch for k in w.used], device=device)
    behaviour = torch.from_numpy(np.concatenate([w.behaviour() for w in batch])).to(device, torch.float32)
    return PairLogProbs(
        first=logprobs[i],
        second=logprobs[j],
        anchor_first=anchor[i],
        anchor_second=anchor[j],
        behaviour_first=behaviour[i],
        behaviour_second=behaviour[j],
        first_length=lengths[i].float(),
        second_length=lengths[j].float(),
        first_index=column("first", torch.int64),
        second_index=column("second", torch.int64),
        target=column("target"),
        first_rate=column("first_rate"),
        second_rate=column("second_rate"),
    )


def _pairs(objective: Objective, group: Group, seed: int, log_ratios: NDArray[np.float64] | None) -> Pairs:
    assert group.preference is not None
    identity = [candidate.token_ids.tobytes() for candidate in group.candidates]
    return objective.pairs(group.preference, identity, seed, log_ratios)
