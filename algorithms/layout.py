"""One packed row for the completions of several groups, without padding and without repeating a prompt.

A group takes the place of its prompt once and of each completion once. Completions see their own prompt and
themselves, never each other, and continue the prompt's positions: the result equals that of separate rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

Block = tuple[slice, torch.Tensor | None]
"""Places of t tokens in a row, and what they may attend to, [t, t] boolean; none where it is all before them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """T tokens in a row; N of them are completion tokens, of S sequences in all."""

    input_ids: torch.Tensor
    """[T]"""
    positions: torch.Tensor
    """[T]; restarts at 0 with each group, and at the prompt's length with each completion."""
    group: torch.Tensor
    """[T], which group a token belongs to."""
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
        for place, block in self.blocks():
            mask[place, place] = True if block is None else block
        return mask.tril_()

    def blocks(self) -> list[Block]:
        """The row's groups, which never attend to each other."""
        found: list[Block] = []
        for length in self.group.bincount().tolist():
            start = found[-1][0].stop if found else 0
            place = slice(start, start + length)
            branch = self.branch[place]
            visible = (branch[None, :] == 0) | (branch[:, None] == branch[None, :])
            found.append((place, None if visible.tril().equal(torch.ones_like(visible).tril()) else visible.tril()))
        return found


def pack_groups(groups: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]], share_prompts: bool) -> Layout:
    """Lay out groups of (prompt, completions), both as token ids.

    Without `share_prompts` every completion carries its own copy of the prompt, which is what attention kernels for
    packed rows (position ids that restart) expect; the mathematics is the same.
    """
    if not share_prompts:
        groups = [(prompt, [completion]) for prompt, completions in groups for completion in completions]
    ids: list[int] = []
    positions: list[int] = []
    group: list[int] = []
    branch: list[int] = []
    predictor: list[int] = []
    targets: list[int] = []
    sequence: list[int] = []
    sequences = 0
    for g, (prompt, completions) in enumerate(groups):
        start = len(ids)
        _extend(ids, prompt, positions, 0, group, g, branch, 0)
        for k, completion in enumerate(completions, start=1):
            first = len(ids)
            _extend(ids, completion, positions, len(prompt), group, g, branch, k)
            if completion:
                predictor.extend([start + len(prompt) - 1, *range(first, first + len(completion) - 1)])
            targets.extend(completion)
            sequence.extend([sequences] * len(completion))
            sequences += 1
    return Layout(
        input_ids=torch.tensor(ids, dtype=torch.long),
        positions=torch.tensor(positions, dtype=torch.long),
        group=torch.tensor(group, dtype=torch.long),
        branch=torch.tensor(branch, dtype=torch.long),
        predictor=torch.tensor(predictor, dtype=torch.long),
        targets=torch.tensor(targets, dtype=torch.long),
        sequence=torch.tensor(sequence, dtype=torch.long),
        sequences=sequences,
    )


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
