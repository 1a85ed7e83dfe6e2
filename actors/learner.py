"""One update of the policy from one batch of groups. It never learns which objective it serves.

The objective draws pairs from a group's preference matrix, gives a loss for each, and names the rule by which
gradients move the policy; this file turns that into steps: a group's candidates cost one forward pass each, whatever
the number of pairs, and an update does not depend on how the batch was cut into micro-batches or over data-parallel
workers.
"""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from actors.batch_metrics import Sums
from actors.config import AlignConfig
from actors.policy import Policy
from actors.records import Group, derive_seed
from actors.work import SumOverWorkers, Work, alone, layout_of, pair_inputs, work_of
from algorithms.layout import Layout
from algorithms.objective import Aimed, Objective, reward_difference
from algorithms.packing import pack

Tensors = dict[str, torch.Tensor]

MEASURE_EVERY = 8
"""Versions between measurements of how far a step goes: one forward pass of one micro-batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A micro-batch before the step: its pairs' errors, and what it takes to compute them again."""

    batch: Sequence[Work]
    layout: Layout
    anchor: torch.Tensor
    error: torch.Tensor


class Learner:
    """Policy, optimizer and schedule; `update` advances them by one version."""

    def __init__(self, config: AlignConfig, policy: Policy, objective: Objective) -> None:
        self._config = config
        self.policy = policy
        self._objective = objective
        self._rule = objective.update
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
        self._aside: dict[str, Any] | None = None
        """Parameters and optimizer from which the next step starts, while the policy holds a look-ahead."""
        remembered = self._rule.iteration > 1 or self._rule.momentum
        self._iterate: Tensors | None = policy.snapshot() if remembered else None
        """Parameters at the start of the iteration, before momentum."""
        self._anchor: Tensors | None = self._iterate
        """pi_t: the same after momentum."""

    def update(self, groups: Sequence[Group], add: SumOverWorkers) -> dict[str, float]:
        """Take this worker's groups of the batch to the next version.

        Returns: metrics of the whole batch, as named in the run's `metrics.jsonl`.
        """
        began = time.perf_counter()
        torch.manual_seed(derive_seed(self._config.seed, "learner", self.version))
        work = [work_of(self._objective, group, self._config.seed) for group in groups]
        self._settle()
        if self._rule.rule == "extragradient" and self.version % 2 == 0:
            self._set_aside()
        metrics = self._step(work, add)
        self.version += 1
        if self.version % self._rule.iteration == 0:
            self._begin_iteration()
        if self._rule.rule == "past_extragradient":
            self._set_aside()
            self._step(work, add)
        return metrics | {"learner_busy_seconds": time.perf_counter() - began}

    def finish(self) -> None:
        """Leave the policy itself in place, not its look-ahead."""
        self._settle()

    def published(self) -> dict[str, Tensors]:
        """Named policies that get new weights with this version, and their trained parameters."""
        own = {name: parameter.detach() for name, parameter in self.policy.parameters().items()}
        settled = own if self._aside is None else self._aside["parameters"]
        weights = {"current": own, "half": own, "latest": own, "iterate": settled}
        if self._rule.mixture:
            weights["mixture"] = self.policy.towards_reference(self._rule.mixture)
        return {name: weights[name] for name in self._rule.published(self.version)}

    def state(self) -> dict[str, Any]:
        """Everything a later process needs to go on bit for bit."""
        parameters = {name: p.detach().cpu() for name, p in self.policy.parameters().items()}
        return {
            "version": self.version,
            "parameters": parameters,
            "optimizer": self._optimizer.state_dict(),
            "aside": self._aside,
            "iterate": self._iterate,
            "anchor": self._anchor,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state()` of another process."""
        self._load(state)
        self.version = state["version"]
        self._aside = state["aside"]
        self._iterate, self._anchor = (self._placed(state[name]) for name in ("iterate", "anchor"))

    def _placed(self, tensors: Tensors | None) -> Tensors | None:
        return tensors and {name: tensor.to(self.policy.device) for name, tensor in tensors.items()}

    def _load(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            for name, parameter in self.policy.parameters().items():
                parameter.copy_(state["parameters"][name])
        self._optimizer.load_state_dict(state["optimizer"])

    def _set_aside(self) -> None:
        """Remember parameters and moments; the next update starts from them again."""
        self._aside = {
            "parameters": self.policy.snapshot(),
            "optimizer": copy.deepcopy(self._optimizer.state_dict()),
        }

    def _settle(self) -> None:
        if self._aside is not None:
            self._load(self._aside)
            self._aside = None

    @torch.no_grad()
    def _begin_iteration(self) -> None:
        """pi_t becomes the current policy, moved on by the momentum of APO (2410.06293)."""
        if self._iterate is None:
            return
        reached = self.policy.snapshot()
        if self._rule.momentum:
            for name, parameter in self.policy.parameters().items():
                parameter.add_(reached[name] - self._iterate[name], alpha=self._rule.momentum)
        self._iterate, self._anchor = reached, self.policy.snapshot()

    def _step(self, work: Sequence[Work], add: SumOverWorkers) -> dict[str, float]:
        """One optimizer step of all workers."""
        sums = Sums()
        for item in work:
            sums.add_group(item)
        own = float(sum(len(item.pairs) for item in work))
        pairs = int(add(torch.tensor(own, device=self.policy.device)).item())
        trained = [item for item in work if len(item.pairs)]
        lengths, single = [item.tokens for item in trained], [[i] for i in range(len(trained))]
        probe = None
        for batch in pack(lengths, single, self._config.learner.token_budget):
            probe = self._backward([trained[i] for i in batch], pairs, sums)
        rate = self._set_rate()
        norm = self._descend(add) if pairs else 0.0
        metrics = sums.metrics(add, self.policy.device) | {
            "gradient_norm": norm,
            "clipped": float(norm > self._config.learner.gradient_clip),
            "learning_rate": rate,
        }
        if pairs and self.version % MEASURE_EVERY == 0 and isinstance(self._objective, Aimed):
            metrics["moved_share"] = self._moved_share(probe, self._objective, add)
        return metrics

    @torch.no_grad()
    def _moved_share(self, probe: Probe | None, objective: Aimed, add: SumOverWorkers) -> float:
        """Share of the way to its target that a pair's margin went in this step, by least squares over all workers."""
        sums = torch.zeros(2, dtype=torch.float64, device=self.policy.device)
        if probe is not None:
            logprobs = self.policy.sequence_logprobs(probe.layout)
            after = objective.error(pair_inputs(probe.batch, logprobs, probe.anchor)).double()
            before = probe.error.double()
            sums += torch.stack([(before * (before - after)).sum(), before.square().sum()])
        moved, distance = add(sums).tolist()
        return moved / distance if distance else 0.0

    def _backward(self, batch: Sequence[Work], pairs: int, sums: Sums) -> Probe | None:
        """Add the gradients of one micro-batch."""
        layout = layout_of(batch, self._config.learner.share_prompts)
        reference = self.policy.sequence_logprobs(layout, reference=True)
        iterate = self._iterate_logprobs(layout)
        logprobs = self.policy.sequence_logprobs(layout)
        if self._objective.corrects_opponents:
            ends = np.cumsum([len(item.used) for item in batch])[:-1]
            now = np.split(logprobs.detach().double().cpu().numpy(), ends)
            batch = [item.corrected(self._objective, part) for item, part in zip(batch, now, strict=True)]
        anchor = self._objective.anchor.combine(reference, logprobs.detach() if iterate is None else iterate)
        inputs = pair_inputs(batch, logprobs, anchor)
        weight = np.concatenate([item.pairs.weight for item in batch])
        loss = self._objective.loss(inputs) * torch.from_numpy(weight).to(logprobs)
        (loss.sum() / pairs).backward()
        sums.add_pairs(batch, inputs, loss.detach(), reward_difference(self._objective, inputs).detach())
        # A shared prefix counts for each group: the figure says what was learned from, however the batch was cut.
        tokens = len(layout.input_ids) + layout.prefix * (len(batch) - 1)
        sums.add_sequences((logprobs.detach() - reference), tokens)
        if not isinstance(self._objective, Aimed):
            return None
        return Probe(batch=batch, layout=layout, anchor=anchor, error=self._objective.error(inputs).detach())

    def _iterate_logprobs(self, layout: Layout) -> torch.Tensor | None:
        """Log-probabilities under pi_t, [S]; none where pi_t is the policy itself."""
        if self._rule.iteration == 1 or not self._objective.anchor.iterate:
            return None
        assert self._anchor is not None
        with torch.no_grad(), self.policy.under(self._anchor):
            return self.policy.sequence_logprobs(layout)

    def _set_rate(self) -> float:
        turns = 2 if self._rule.rule == "extragradient" else 1
        total = self._config.loop.steps // turns
        rate = self._config.learner.rate_at(min(self.version // turns, total - 1), total)
        for parameters in self._optimizer.param_groups:
            parameters["lr"] = rate
        return rate

    def _descend(self, add: SumOverWorkers) -> float:
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
