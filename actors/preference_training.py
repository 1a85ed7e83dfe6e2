"""The Ray Train loop of preference models: the members of a run one after another, each resumable at any checkpoint.

Every worker holds all records and computes its share of each batch. What a step learns from follows from the
configuration alone, so a run that was killed ends with the same weights as one that was not.
"""

import json
import math
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import torch
import torch.distributed
from ray.train.torch import get_device

from actors.models import resolve_model
from actors.preference_config import PreferenceModelConfig
from actors.preference_data import Comparison, Rating, Record
from actors.preference_examples import attributes_of, build_encoder, example_of
from actors.preference_learner import PreferenceLearner
from actors.records import derive_seed
from actors.work import SumOverWorkers, alone

STATE_FILE = "preference_model.pt"
METRICS_FILE = "metrics.jsonl"


def steps_of(config: PreferenceModelConfig, records: int) -> int:
    """Updates of one member."""
    return config.training.epochs * math.ceil(records / config.training.batch)


def batch_of(records: Sequence[Record], batch: int, step: int, seed: int) -> list[Record]:
    """The records of an update, comparisons with either response first.

    Each epoch takes every record once, in an order that follows from the seed.
    """
    steps = math.ceil(len(records) / batch)
    epoch, place = divmod(step, steps)
    generator = np.random.default_rng(derive_seed(seed, "epoch", epoch))
    order = generator.permutation(len(records))
    turned = generator.integers(2, size=len(records))
    taken = [(records[i], turned[i]) for i in order[place * batch : (place + 1) * batch]]
    return [record.turned() if turn and isinstance(record, Comparison) else record for record, turn in taken]


def train_loop(arguments: dict[str, Any]) -> None:
    """What every Ray Train worker runs.

    `arguments`: `config` (PreferenceModelConfig), `records` (object reference), `run_directory`.
    """
    config: PreferenceModelConfig = arguments["config"]
    torch.set_num_threads(config.training.threads)
    # Transformers would warn of every head that begins at random.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    context = ray.train.get_context()
    records = ray.get(arguments["records"])
    training = PreferenceTraining(config, records, Path(arguments["run_directory"]), context.get_world_rank())
    training.run(context.get_world_size())


class PreferenceTraining:
    """One worker's part of all members."""

    def __init__(
        self, config: PreferenceModelConfig, records: Sequence[Record], run_directory: Path, rank: int
    ) -> None:
        self._config, self._records, self._rank = config, records, rank
        self._run_directory = run_directory
        self._folder = resolve_model(config.model.name)
        self._encoder = build_encoder(config, self._folder)
        self._steps = steps_of(config, len(records))
        ratings = [record for record in records if isinstance(record, Rating)]
        self._attributes = attributes_of(ratings) if ratings else None

    def run(self, workers: int) -> None:
        """From the last checkpoint, or the start, to the last member's folder."""
        add: SumOverWorkers = alone if workers == 1 else _all_reduce
        restored = self._restored()
        begun = restored["member"] if restored else 0
        features: dict[tuple[int, ...], torch.Tensor] = {}
        for member in range(begun, self._config.members):
            learner = PreferenceLearner(
                self._config,
                self._folder,
                get_device(),
                member=member,
                steps=self._steps,
                attributes=self._attributes,
                features=features,
            )
            if restored and member == begun:
                learner.restore(restored["learner"])
            self._train(learner, member, workers, add)
            if self._rank == 0:
                self._save(learner, self._config.folders()[member])

    def _train(self, learner: PreferenceLearner, member: int, workers: int, add: SumOverWorkers) -> None:
        training = self._config.training
        pair = self._config.objective.kind == "pair_classifier"
        seed = derive_seed(self._config.seed, "member", member)
        while learner.step < self._steps:
            began = time.perf_counter()
            batch = batch_of(self._records, training.batch, learner.step, seed)
            examples = [example_of(record, self._encoder, pair, self._attributes) for record in batch]
            metrics = learner.update(examples, self._rank, workers, add)
            if self._rank == 0:
                self._log({"member": member, "step": learner.step, **metrics, "seconds": time.perf_counter() - began})
            if learner.step % training.checkpoint_every == 0 or learner.step == self._steps:
                self._checkpoint(learner, member)

    def _restored(self) -> dict[str, Any] | None:
        checkpoint = ray.train.get_checkpoint()
        state: dict[str, Any] | None = None
        if checkpoint is not None:
            with checkpoint.as_directory() as folder:
                state = torch.load(Path(folder) / STATE_FILE, map_location="cpu", weights_only=True)
        if self._rank == 0:
            self._forget_later(state)
        return state

    def _forget_later(self, state: dict[str, Any] | None) -> None:
        """Take the lines of updates that will be made again out of the metrics."""
        path = self._run_directory / METRICS_FILE
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        reached = (state["member"], state["learner"]["step"]) if state else (0, 0)
        rows = [(json.loads(line), line) for line in lines if line.endswith("}")]
        kept = [line for row, line in rows if (row["member"], row["step"]) <= reached]
        path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def _log(self, row: dict[str, Any]) -> None:
        finite = {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}
        with (self._run_directory / METRICS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite) + "\n")

    def _checkpoint(self, learner: PreferenceLearner, member: int) -> None:
        """A barrier over all workers."""
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if self._rank == 0:
                torch.save({"member": member, "learner": learner.state()}, Path(folder) / STATE_FILE)
                checkpoint = ray.train.Checkpoint.from_directory(folder)
            name = f"member-{member}-step-{learner.step:08d}"
            ray.train.report({"step": learner.step}, checkpoint=checkpoint, checkpoint_dir_name=name)

    def _save(self, learner: PreferenceLearner, name: str) -> None:
        part, folder = self._run_directory / f"{name}.part", self._run_directory / name
        if not folder.exists():
            learner.save(part)
            part.rename(folder)


def _all_reduce(tensor: torch.Tensor) -> torch.Tensor:
    torch.distributed.all_reduce(tensor)
    return tensor
