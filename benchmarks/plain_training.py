"""Online DPO's update as one would write it by hand with Transformers, for the learner to be compared with.

Padded batches, the prompt repeated for every completion, logits for every position, `log_softmax` over the
vocabulary. Model, number formats, optimizer and reference are those of the learner; the loss is the same number.
"""

import contextlib
from collections.abc import Iterator, Sequence
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from actors.config import AlignConfig
from actors.policy import Policy
from actors.records import Group

Sequence_ = tuple[list[int], list[int]]
"""Prompt and completion, as token ids."""
Pair = tuple[int, int, int]
"""Group, and its candidates: the preferred one, the other one."""


def all_pairs(groups: Sequence[Group]) -> list[Pair]:
    """Every pair of every group that is not a tie."""
    pairs = []
    for g, group in enumerate(groups):
        assert group.preference is not None
        for i, j in combinations(range(len(group.candidates)), 2):
            if group.preference[i, j] != 0.5:
                pairs.append((g, i, j) if group.preference[i, j] > 0.5 else (g, j, i))
    return pairs


class PlainTrainer:
    """Policy, reference and optimizer; a step is either a forward pass a candidate or two a pair."""

    def __init__(self, config: AlignConfig, policy: Policy, beta: float) -> None:
        self._policy = policy
        self._beta = beta
        self._clip = config.learner.gradient_clip
        self._half = config.learner.autocast and policy.dtype != torch.float32
        self._parameters = list(policy.parameters().values())
        self._optimizer = torch.optim.AdamW(
            self._parameters,
            lr=config.learner.learning_rate,
            betas=config.learner.betas,
            eps=config.learner.epsilon,
            weight_decay=config.learner.weight_decay,
            fused=True,
        )

    def step_by_candidate(self, groups: Sequence[Group], groups_at_once: int) -> float:
        """One update, a forward pass for each candidate; returns the mean loss over all pairs."""
        pairs, total = all_pairs(groups), 0.0
        for start in range(0, len(groups), groups_at_once):
            chunk = groups[start : start + groups_at_once]
            rows = [(start + g, k) for g, group in enumerate(chunk) for k in range(len(group.candidates))]
            place = {key: row for row, key in enumerate(rows)}
            ratios = self._log_ratios([_sequence(groups[g], k) for g, k in rows])
            own = [pair for pair in pairs if start <= pair[0] < start + len(chunk)]
            first = ratios[[place[g, i] for g, i, _ in own]]
            second = ratios[[place[g, j] for g, _, j in own]]
            total += self._backward(first, second, len(pairs))
        self._update()
        return total

    def step_by_pair(self, groups: Sequence[Group], pairs_at_once: int) -> float:
        """One update as pairwise trainers do it: chosen and rejected of every pair concatenated into one batch."""
        pairs, total = all_pairs(groups), 0.0
        for start in range(0, len(pairs), pairs_at_once):
            chunk = pairs[start : start + pairs_at_once]
            chosen = [_sequence(groups[g], i) for g, i, _ in chunk]
            rejected = [_sequence(groups[g], j) for g, _, j in chunk]
            first, second = self._log_ratios(chosen + rejected).split(len(chunk))
            total += self._backward(first, second, len(pairs))
        self._update()
        return total

    def _log_ratios(self, sequences: Sequence[Sequence_]) -> Tensor:
        """log pi - log pi_ref of each completion, [S], nats."""
        with self._reference() as reference, torch.no_grad():
            anchor = self._logprobs(reference, sequences)
        return self._logprobs(self._policy.model, sequences) - anchor

    def _logprobs(self, model: torch.nn.Module, sequences: Sequence[Sequence_]) -> Tensor:
        rows = [torch.tensor(prompt + completion) for prompt, completion in sequences]
        ids = pad_sequence(rows, batch_first=True)
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        answers = pad_sequence(
            [torch.tensor([0] * len(prompt) + [1] * len(completion)) for prompt, completion in sequences],
            batch_first=True,
        )
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._half):
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
        logprobs = logits.float().log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
        total: Tensor = (logprobs * answers[:, 1:]).sum(1)
        return total

    @contextlib.contextmanager
    def _reference(self) -> Iterator[torch.nn.Module]:
        if self._policy.adapted is None:
            assert self._policy.reference is not None
            yield self._policy.reference
        else:
            with self._policy.adapted.disable_adapter():
                yield self._policy.model

    def _backward(self, first: Tensor, second: Tensor, pairs: int) -> float:
        loss = -functional.logsigmoid(self._beta * (first - second)).sum() / pairs
        loss.backward()
        return loss.item()

    def _update(self) -> None:
        torch.nn.utils.clip_grad_norm_(self._parameters, self._clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)


def _sequence(group: Group, candidate: int) -> Sequence_:
    return group.prompt_ids.tolist(), group.candidates[candidate].token_ids.tolist()
