"""Supervised fine-tuning in Ray Train workers: the next-token loss on the answers of conversations.

Contract: an update does not depend on how its batch was cut into micro-batches or over workers, and a run that was
killed goes on from its last checkpoint to the same weights.
"""

import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import torch
import torch.distributed
from pydantic import Field, model_validator
from ray.train.torch import get_device

from actors.component import Component, Seconds, Share
from actors.config import LearnerConfig
from actors.models import load_tokenizer
from actors.packed_attention import attend_in_blocks, inputs_of
from actors.records import derive_seed
from algorithms.layout import Layout, pack_groups
from algorithms.logprobs import token_logprobs
from algorithms.packing import pack, split_evenly

STATE_FILE = "sft.pt"
METRICS_FILE = "metrics.jsonl"

Example = tuple[list[int], list[int]]
"""Token ids of a prompt, and of the answer that follows it."""


class SmallLlama(Component):
    """A Llama made on the spot with random weights, and a byte-level BPE tokenizer of the conversations."""

    vocabulary: int = Field(default=1024, ge=300)
    """Tokens at most; texts too few to need them all give fewer."""
    hidden: int = Field(ge=32, multiple_of=32)
    """Heads are 32 wide."""
    layers: int = Field(ge=1)
    feedforward: int = Field(ge=1)
    context: int = Field(default=512, ge=16)


class WriterConfig(Component):
    """Who writes the conversations when their file does not exist yet."""

    config: str
    """An `align` configuration: its model answers its prompts."""
    samples: int = Field(default=2, ge=1)
    """Answers to each prompt; those cut at the token limit are left out."""


class ConversationsConfig(Component):
    """Conversations: JSONL or Parquet with a `messages` column that ends with an assistant's message."""

    conversations: str
    heldout_share: Share = 0.05
    """Share of the rows on which the loss is only measured."""
    writer: WriterConfig | None = None


class SftConfig(Component):
    """Everything one `sft` run is made of."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """The run directory is `directory/name`."""
    directory: str = "runs"
    seed: int = Field(default=0, ge=0)
    model: str | None = None
    """A Hugging Face folder or id to go on from."""
    make: SmallLlama | None = None
    """Or the shape of a new one."""
    data: ConversationsConfig
    steps: int = Field(ge=1)
    batch: int = Field(default=32, ge=1)
    """Conversations of one update."""
    learner: LearnerConfig = LearnerConfig(method="full", learning_rate=3e-3, schedule="cosine")
    deadline: Seconds = 1800.0
    """The driver's wait for the next update, the first one with its start included."""

    @model_validator(mode="after")
    def _consistent(self) -> "SftConfig":
        if (self.model is None) == (self.make is None):
            raise ValueError("give either model, a folder or id to go on from, or make, the shape of a new one")
        if self.learner.method != "full":
            raise ValueError("sft trains full weights; set learner.method: full")
        if self.learner.warmup_steps > self.steps:
            raise ValueError(f"learner.warmup_steps = {self.learner.warmup_steps} is more than steps = {self.steps}")
        return self


def sft_loop(arguments: dict[str, Any]) -> None:
    """What every Ray Train worker runs.

    `arguments`: `config` (SftConfig), `folder` of the start, `examples` and `heldout` (each a list of Example), and
    `run_directory`.
    """
    config: SftConfig = arguments["config"]
    torch.set_num_threads(config.learner.threads)
    context = ray.train.get_context()
    worker = SftWorker(config, arguments["folder"], get_device(), context.get_world_rank(), context.get_world_size())
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            worker.restore(torch.load(Path(folder) / STATE_FILE, map_location="cpu", weights_only=True))
    directory = Path(arguments["run_directory"])
    if worker.rank == 0:
        _rewind(directory / METRICS_FILE, worker.step)
    while worker.step < config.steps:
        metrics = worker.update(batch_of(arguments["examples"], config.batch, config.seed, worker.step))
        last = worker.step == config.steps
        if last or worker.step % config.learner.checkpoint_every == 0:
            metrics["heldout_loss"] = worker.loss(arguments["heldout"])
        if worker.rank == 0:
            with (directory / METRICS_FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": worker.step, **metrics}) + "\n")
            if last:
                worker.save(arguments["folder"], directory)
        if "heldout_loss" in metrics:
            _report(worker, metrics)


def _rewind(path: Path, step: int) -> None:
    """Forget what an earlier life measured after its last checkpoint."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
    path.write_text("".join(kept), encoding="utf-8")


def batch_of(examples: Sequence[Example], size: int, seed: int, step: int) -> list[Example]:
    """The batch of an update: epochs follow each other, each in an order of its own."""
    places = range(step * size, (step + 1) * size)
    epochs = range(places[0] // len(examples), places[-1] // len(examples) + 1)
    orders = {e: np.random.default_rng(derive_seed(seed, "epoch", e)).permutation(len(examples)) for e in epochs}
    return [examples[orders[place // len(examples)][place % len(examples)]] for place in places]


class SftWorker:
    """One worker's copy of the model, and its part of every batch."""

    def __init__(self, config: SftConfig, folder: str, device: torch.device, rank: int = 0, workers: int = 1) -> None:
        from transformers import AutoModelForCausalLM

        options = config.learner
        self._config, self._device = config, device
        self.rank, self._workers = rank, workers
        self.step = 0
        self.tokens = 0
        """Trained tokens, answers only."""
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
        attend_in_blocks(self.model)
        self.model.to(device)
        decayed = [p for p in self.model.parameters() if p.ndim >= 2]
        others = [p for p in self.model.parameters() if p.ndim < 2]
        self._optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=options.learning_rate,
            betas=options.betas,
            eps=options.epsilon,
            fused=True,
        )

    def update(self, batch: Sequence[Example]) -> dict[str, float]:
        """Take one optimizer step; `loss` is the mean over the answers' tokens, in nats."""
        count = sum(len(answer) for _, answer in batch)
        total = torch.zeros((), device=self._device)
        for layout in self._layouts(batch):
            loss = -self._logprobs(layout).sum()
            (loss / count).backward()
            total += loss.detach()
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.model.parameters()]
        self._sum(total, *gradients)
        for parameter, gradient in zip(self.model.parameters(), gradients, strict=True):
            parameter.grad = gradient
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._config.learner.gradient_clip)
        rate = self._set_rate()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.tokens += count
        return {
            "loss": total.item() / count,
            "gradient_norm": float(norm),
            "learning_rate": rate,
            "tokens": float(self.tokens),
        }

    @torch.no_grad()
    def loss(self, examples: Sequence[Example]) -> float:
        """Mean loss a token of answers that are not trained; not a number without any."""
        count = sum(len(answer) for _, answer in examples)
        total = torch.zeros((), device=self._device)
        for layout in self._layouts(examples):
            total -= self._logprobs(layout).sum()
        self._sum(total)
        return total.item() / count if count else math.nan

    def state(self) -> dict[str, Any]:
        """Everything a later process needs to go on bit for bit."""
        return {
            "step": self.step,
            "tokens": self.tokens,
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state()` of another process."""
        self.step, self.tokens = state["step"], state["tokens"]
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])

    def save(self, start: str, directory: Path) -> None:
        """Write the model folder `policy`, which anything can load."""
        part, folder = directory / "policy.part", directory / "policy"
        self.model.save_pretrained(part)
        load_tokenizer(start).save_pretrained(part)
        if not folder.exists():
            part.rename(folder)

    def _layouts(self, batch: Sequence[Example]) -> list[Layout]:
        """This worker's part of a batch, as packed rows."""
        lengths = [len(prompt) + len(answer) for prompt, answer in batch]
        own = [batch[i] for i in split_evenly(lengths, self._workers)[self.rank]]
        sizes, single = [len(prompt) + len(answer) for prompt, answer in own], [[i] for i in range(len(own))]
        rows = pack(sizes, single, self._config.learner.token_budget)
        return [pack_groups([(own[i][0], [own[i][1]]) for i in row], share_prompts=True) for row in rows]

    def _logprobs(self, layout: Layout) -> torch.Tensor:
        """Log-probabilities of the answers' tokens, [N] float32, in nats."""
        options, device = self._config.learner, self._device
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=options.autocast):
            hidden = self.model.base_model(**inputs_of(self.model, layout, device)).last_hidden_state[0]
            return token_logprobs(
                hidden[layout.predictor.to(device)],
                self.model.get_output_embeddings().weight,
                layout.targets.to(device),
                chunk_tokens=options.chunk_tokens,
            )

    def _sum(self, *tensors: torch.Tensor) -> None:
        """Add over all workers, in place."""
        if self._workers > 1:
            for tensor in tensors:
                torch.distributed.all_reduce(tensor)

    def _set_rate(self) -> float:
        rate = self._config.learner.rate_at(self.step, self._config.steps)
        for parameters in self._optimizer.param_groups:
            parameters["lr"] = rate
        return rate


def _report(worker: SftWorker, metrics: dict[str, float]) -> None:
    """Checkpoint; a barrier over all workers."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = None
        if worker.rank == 0:
            torch.save(worker.state(), Path(folder) / STATE_FILE)
            checkpoint = ray.train.Checkpoint.from_directory(folder)
        ray.train.report(metrics, checkpoint=checkpoint, checkpoint_dir_name=f"step-{worker.step:08d}")
