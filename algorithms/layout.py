"""One packed row for the completions of several groups, without padding and without repeating a prompt.

What all prompts of the row begin with, as a system prompt, takes its place once; then each group that of the rest of
its prompt once and of each completion once. Completions see their own prompt and themselves, never each other, and
continue the prompt's positions: the result equals that of separate rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

Block = tuple[slice, torch.Tensor | None]
"""Places of t tokens in a row, and which of the shared prefix and of themselves they may attend to, [t, p + t] boolean;
none where there is no prefix and it is all before them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """T tokens in a row; N of them are completion tokens, of S sequences in all."""

    input_ids: torch.Tensor
    """[T]"""
    positions: torch.Tensor
    """[T]; restarts at the prefix' length with each group, and at the prompt's length with each completion."""
    prefix: int
    """The row's first p tokens, with which the prompts of all groups begin."""
    group: torch.Tensor
    """[T], which group a token belongs to; -1 for the prefix."""
    branch: torch.Tensor
    """[T], 0 for a prompt, else 1 + the completion's number within the group."""
    predictor: torch.Tensor
    """[N], place of the token whose hidden state predicts a completion token."""
    targets: torch.Tensor
    """[N], the completion tokens."""
    sequence: torch.Tensor
    """[N], which of the S sequences a completion token belongs to."""
    sequences: int

    def attention_mask(self) -> torch.Tensor:
        """[T, T] boolean, true where the row's token may attend to the column's."""
        mask = torch.zeros(len(self.input_ids), len(self.input_ids), dtype=torch.bool)
        mask[:, : self.prefix] = True
        for place, block in self.blocks():
            mask[place, place] = True if block is None else block[:, -(place.stop - place.start) :]
        return mask.tril_()

    def blocks(self) -> list[Block]:
        """The prefix, if there is one, and the row's groups, which never attend to each other."""
        found: list[Block] = [(slice(0, self.prefix), None)] if self.prefix else []
        start = self.prefix
        for length in self.group[start:].bincount().tolist():
            place = slice(start, start := start + length)
            branch = self.branch[place]
            visible = ((branch[None, :] == 0) | (branch[:, None] == branch[None, :])).tril()
            causal = not self.prefix and visible.equal(torch.ones_like(visible).tril())
            seen = torch.cat([visible.new_ones(length, self.prefix), visible], dim=1)
            found.append((place, None if causal else seen))
        return found


def pack_groups(groups: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]], share_prompts: bool) -> Layout:
    """Lay out groups of (prompt, completions), both as token ids.

    Without `share_prompts` every completion carries its own copy of the prompt, which is what attention kernels for
    packed rows (position ids that restart) expect; the mathematics is the same.
    """
    if not share_prompts:
        groups = [(prompt, [completion]) for prompt, completions in groups for completion in completions]
    prefix = _shared([prompt for prompt, _ in groups]) if share_prompts and len(groups) > 1 else 0
    ids: list[int] = []
    positions: list[int] = []
    group: list[int] = []
    branch: list[int] = []
    predictor: list[int] = []
    targets: list[int] = []
    sequence: list[int] = []
    sequences = 0
    if prefix:
        _extend(ids, groups[0][0][:prefix], positions, 0, group, -1, branch, 0)
    for g, (prompt, completions) in enumerate(groups):
        _extend(ids, prompt[prefix:], positions, prefix, group, g, branch, 0)
        last = len(ids) - 1
        for k, completion in enumerate(completions, start=1):
            first = len(ids)
            _extend(ids, completion, positions, len(prompt), group, g, branch, k)
            if completion:
                predictor.extend([last, *range(first, first + len(completion) - 1)])
            targets.extend(completion)
            sequence.extend([sequences] * len(completion))
            sequences += 1
    return Layout(
        input_ids=torch.tensor(ids, dtype=torch.long),
        positions=torch.tensor(positions, dtype=torch.long),
        prefix=prefix,
        group=torch.tensor(group, dtype=torch.long),
        branch=torch.tensor(branch, dtype=torch.long),
        predictor=torch.tensor(predictor, dtype=torch.long),
        targets=torch.tensor(targets, dtype=torch.long),
        sequence=torch.tensor(sequence, dtype=torch.long),
        sequences=sequences,
    )


def _shared(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens with which all of them begin; each keeps one of its own, which predicts the first of its completions."""
    longest = min(len(prompt) for prompt in prompts) - 1
    same = (all(prompt[i] == prompts[0][i] for prompt in prompts) for i in range(longest))
    return next((i for i, equal in enumerate(same) if not equal), max(longest, 0))


def _extend(
    ids: list[int],
    tokens: Sequence[int],
    positions: list[int],
    offset: int,
    group: list[int],
    g: int,
    branch: list[int],
    b: int,
) -> None:
    ids.extend(tokens)
    positions.extend(range(offset, offset + len(tokens)))
    group.extend([g] * len(tokens))
    branch.extend([b] * len(tokens))
