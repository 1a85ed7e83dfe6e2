"""One update of the policy from one batch of groups. It never learns which objective it serves.

The objective draws pairs from a group's preference matrix and gives a loss for each; this file turns that into
gradients: a group's candidates cost one forward pass each, whatever the number of pairs, and the update does not
depend on how the batch was cut into micro-batches or over data-parallel workers.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from actors.config import AlignConfig
from actors.policy import Policy
from actors.records import Group, derive_seed
from algorithms.diagnostics import k1, k3
from algorithms.layout import pack_groups
from algorithms.objective import Objective, PairLogProbs
from algorithms.packing import pack
from algorithms.pairs import Pairs
from algorithms.schedules import learning_rate_factor

SumOverWorkers = Callable[[torch.Tensor], torch.Tensor]
"""Adds a tensor over all data-parallel workers, in place."""


def alone(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over one worker."""
    return tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A group reduced to what its pairs need."""

    group: Group
    pairs: Pairs
    used: NDArray[np.int64]
    """Candidates that occur in a pair, ascending."""

    @property
    def tokens(self) -> int:
        """Tokens of the group's place in a packed row."""
        return len(self.group.prompt_ids) + sum(len(self.group.candidates[k].token_ids) for k in self.used)


class Learner:
    """Policy, optimizer and schedule; `update` advances them by one version."""

    def __init__(self, config: AlignConfig, policy: Policy, objective: Objective) -> None:
        self._config = config
        self.policy = policy
        self._objective = objective
        self.version = 0
        options = config.learner
        decayed = [p for p in policy.parameters().values() if p.ndim >= 2]
        others = [p for p in policy.parameters().values() if p.ndim < 2]
        self._optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=options.learning_rate,
            betas=options.betas,
            eps=options.epsilon,
            fused=True,
        )

    def update(self, groups: Sequence[Group], add: SumOverWorkers) -> dict[str, float]:
        """One optimizer step on this worker's groups of the batch.

        Returns: metrics of the whole batch, as named in the run's `metrics.jsonl`.
        """
        began = time.perf_counter()
        torch.manual_seed(derive_seed(self._config.seed, "learner", self.version))
        work = [self._work(group) for group in groups]
        sums = Sums()
        for item in work:
            sums.add_group(item)
        own = float(sum(len(item.pairs.first) for item in work))
        pairs = int(add(torch.tensor(own, device=self.policy.device)).item())
        trained = [item for item in work if len(item.pairs.first)]
        lengths, single = [item.tokens for item in trained], [[i] for i in range(len(trained))]
        order = pack(lengths, single, self._config.learner.token_budget)
        for batch in order:
            self._backward([trained[i] for i in batch], pairs, sums)
        rate = self._set_rate()
        norm = self._step(add) if pairs else 0.0
        self.version += 1
        metrics = sums.metrics(add, self.policy.device)
        metrics |= {
            "gradient_norm": norm,
            "clipped": float(norm > self._config.learner.gradient_clip),
            "learning_rate": rate,
            "learner_busy_seconds": time.perf_counter() - began,
        }
        return metrics

    def state(self) -> dict[str, Any]:
        """Everything a later process needs to go on bit for bit."""
        parameters = {name: p.detach().cpu() for name, p in self.policy.parameters().items()}
        return {"version": self.version, "parameters": parameters, "optimizer": self._optimizer.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state()` of another process."""
        with torch.no_grad():
            for name, parameter in self.policy.parameters().items():
                parameter.copy_(state["parameters"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        self.version = state["version"]

    def _work(self, group: Group) -> Work:
        assert group.preference is not None
        identity = [tuple(candidate.token_ids.tolist()) for candidate in group.candidates]
        seed = derive_seed(self._config.seed, "pairs", group.index)
        pairs = self._objective.pairs(group.preference, identity, seed)
        return Work(group=group, pairs=pairs, used=np.union1d(pairs.first, pairs.second))

    def _backward(self, batch: Sequence[Work], pairs: int, sums: "Sums") -> None:
        layout = pack_groups(
            [
                (item.group.prompt_ids.tolist(), [item.group.candidates[k].token_ids.tolist() for k in item.used])
                for item in batch
            ],
            self._config.learner.share_prompts,
        )
        reference = self.policy.sequence_logprobs(layout, reference=True)
        logprobs = self.policy.sequence_logprobs(layout)
        anchor = self._objective.anchor.combine(reference, None)
        inputs = _pair_inputs(batch, logprobs, anchor)
        loss = self._objective.loss(inputs)
        (loss.sum() / pairs).backward()
        sums.add_pairs(inputs, loss.detach(), self._objective.reward_scale)
        sums.add_sequences((logprobs.detach() - reference), len(layout.input_ids))

    def _set_rate(self) -> float:
        options = self._config.learner
        factor = learning_rate_factor(
            self.version, self._config.loop.steps, options.warmup_steps, options.schedule, options.minimum_rate
        )
        for parameters in self._optimizer.param_groups:
            parameters["lr"] = options.learning_rate * factor
        return options.learning_rate * factor

    def _step(self, add: SumOverWorkers) -> float:
        parameters = list(self.policy.parameters().values())
        gradients = []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        if add is not alone:
            # One collective for all parameters: hundreds of small ones would each pay the latency.
            summed = torch._utils._unflatten_dense_tensors(
                add(torch._utils._flatten_dense_tensors(gradients)), gradients
            )
            for gradient, total in zip(gradients, summed, strict=True):
                gradient.copy_(total)
        norm = torch.nn.utils.clip_grad_norm_(parameters, self._config.learner.gradient_clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return float(norm)


def _pair_inputs(batch: Sequence[Work], logprobs: torch.Tensor, anchor: torch.Tensor) -> PairLogProbs:
    """Log-probabilities of the batch's pairs, all [P], from those of its sequences."""
    first, second, target, lengths = [], [], [], []
    offset = 0
    for item in batch:
        place = {int(k): offset + i for i, k in enumerate(item.used)}
        first += [place[int(k)] for k in item.pairs.first]
        second += [place[int(k)] for k in item.pairs.second]
        target += item.pairs.target.tolist()
        lengths += [len(item.group.candidates[k].token_ids) for k in item.used]
        offset += len(item.used)
    device = logprobs.device
    i, j = torch.tensor(first, device=device), torch.tensor(second, device=device)
    tokens = torch.tensor(lengths, dtype=torch.float32, device=device)
    return PairLogProbs(
        first=logprobs[i],
        second=logprobs[j],
        anchor_first=anchor[i],
        anchor_second=anchor[j],
        first_length=tokens[i],
        second_length=tokens[j],
        target=torch.tensor(target, dtype=torch.float32, device=device),
    )


class Sums:
    """Running sums of a batch's metrics; they add up over micro-batches and over workers."""

    NAMES = (
        "groups", "candidates", "tokens", "truncated", "negative_logprob", "pairs", "dropped_pairs",
        "loss", "margin", "correct", "chosen", "rejected", "sequences", "k1", "k3", "trained_tokens",
    )  # fmt: skip

    def __init__(self) -> None:
        self._values = dict.fromkeys(self.NAMES, 0.0)

    def add_group(self, work: Work) -> None:
        """Count a group, its candidates and its pairs."""
        candidates = work.group.candidates
        self._add(
            groups=1,
            candidates=len(candidates),
            tokens=sum(len(c.token_ids) for c in candidates),
            truncated=sum(c.truncated for c in candidates),
            negative_logprob=-float(sum(c.logprobs.sum() for c in candidates)),
            pairs=len(work.pairs.first),
            dropped_pairs=work.pairs.dropped,
        )

    def add_pairs(self, inputs: PairLogProbs, loss: torch.Tensor, reward_scale: float) -> None:
        """Add the pairs of one micro-batch."""
        margin = reward_scale * inputs.margin.detach()
        self._add(
            loss=loss.sum().item(),
            margin=margin.sum().item(),
            correct=(margin > 0).sum().item(),
            chosen=inputs.first.sum().item(),
            rejected=inputs.second.sum().item(),
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
            "entropy": value["negative_logprob"] / max(value["tokens"], 1.0),
            "length_mean": value["tokens"] / max(value["candidates"], 1.0),
            "truncated_share": value["truncated"] / max(value["candidates"], 1.0),
            "pairs": value["pairs"],
            "dropped_pairs": value["dropped_pairs"],
            "batch_groups": value["groups"],
            "batch_completions": value["candidates"],
            "batch_generated_tokens": value["tokens"],
            "batch_trained_tokens": value["trained_tokens"],
        }

    def _add(self, **values: float) -> None:
        for name, value in values.items():
            self._values[name] += value
