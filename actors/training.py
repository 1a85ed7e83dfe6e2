"""The learner's Ray Train loop: take a batch, update, publish, checkpoint; go on from the last checkpoint if it died.

Everything between two checkpoints can be replayed from the buffer, so a lost worker costs time and nothing else.
"""

import json
import os
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
import torch.distributed
from ray.exceptions import GetTimeoutError
from ray.train.torch import get_device

from actors.buffer import RunStopped
from actors.checkpoints import INHERITED, SNAPSHOT_FILE, STATE_FILE, checkpoint_name
from actors.config import AlignConfig
from actors.full_disk import is_full_disk
from actors.learner import Learner
from actors.models import resolve_model
from actors.policy import Policy
from actors.publication import Canary, Publication, build_transport, serialise
from actors.records import Group, from_arrow
from actors.work import SumOverWorkers, alone
from algorithms.objective import Objective, build_objective
from algorithms.sampling import served_policies

Weights = tuple[str, dict[str, torch.Tensor], tuple[dict[int, float], ...]]
"""A policy's name, its tensors, and what it says of the canaries."""


def train_loop(arguments: dict[str, Any]) -> None:
    """What every Ray Train worker runs.

    `arguments`: `config` (AlignConfig), `conductor` and `buffer` (actor handles), `canaries`, `run_directory`.
    """
    config: AlignConfig = arguments["config"]
    torch.set_num_threads(config.learner.threads)
    context = ray.train.get_context()
    device = get_device()
    policy = Policy(config, resolve_model(config.model.name), device)
    objective = build_objective(config.objective.name, config.objective.options)
    learner = Learner(config, policy, objective)
    loop = TrainLoop(arguments, learner, objective, context.get_world_rank(), context.get_world_size())
    try:
        loop.run()
    except RunStopped:
        # The conductor has recorded the reason; a retry by Ray Train would meet the same end.
        return
    except Exception as error:
        if not is_full_disk(error):
            raise
        # So would this one.
        ray.get(arguments["conductor"].stop.remote(f"the learner failed: {error}"))
    finally:
        loop.close()


class TrainLoop:
    """One worker's part of the learner."""

    def __init__(
        self, arguments: dict[str, Any], learner: Learner, objective: Objective, rank: int, workers: int
    ) -> None:
        self._config: AlignConfig = arguments["config"]
        self._conductor, self._buffer = arguments["conductor"], arguments["buffer"]
        self._canaries: tuple[Canary, ...] = arguments["canaries"]
        self._run_directory = Path(arguments["run_directory"])
        self._learner = learner
        self._replay = objective.update.replay
        self._iteration = objective.update.iteration
        self._served = served_policies(objective.sampling, objective.update)
        self._rank, self._workers = rank, workers
        self._add: SumOverWorkers = alone if workers == 1 else _all_reduce
        self._transport = build_transport(self._config.publication)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="publish")
        self._publishing: Future[None] | None = None

    def run(self) -> None:
        """From the last checkpoint, or the start, to the last version."""
        snapshot = self._restore()
        if self._rank == 0:
            publications = self._publications(self._weights(), self._learner.version)
            ray.get(self._conductor.begin.remote(self._learner.version, snapshot, publications, os.getpid()))
        steps, every = self._config.loop.steps, self._config.learner.checkpoint_every
        coming = self._order(self._learner.version) if self._learner.version < steps else None
        while coming is not None:
            groups = [*from_arrow(self._receive(coming)), *self._replayed()]
            following = self._learner.version + 1
            coming = self._order(following) if following < steps else None
            metrics = self._learner.update(groups, self._add)
            self._publish(metrics)
            if self._learner.version % every == 0 or self._learner.version == steps:
                self._checkpoint()
        if self._rank == 0:
            self._join_publishing()
            self._learner.finish()
            self._save_policy()
            # The last publication lives as long as this process, and an engine that is replaced now still needs it.
            ray.get(self._conductor.ended.remote())

    def close(self) -> None:
        """End the publishing thread."""
        self._thread.shutdown(wait=True)

    def _restore(self) -> dict[str, Any] | None:
        """Go on from the run's own last checkpoint, else from the one it inherited; what the loop needs, if any."""
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            inherited = self._run_directory / INHERITED
            return self._take_up(inherited) if inherited.exists() else None
        with checkpoint.as_directory() as folder:
            return self._take_up(Path(folder))

    def _take_up(self, folder: Path) -> dict[str, Any]:
        self._learner.restore(torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True))
        snapshot: dict[str, Any] = json.loads((folder / SNAPSHOT_FILE).read_text())
        return snapshot

    def _order(self, version: int) -> ray.ObjectRef[Any]:
        """Ask for a batch early, so that it travels while the one before is trained."""
        coming: ray.ObjectRef[Any] = self._buffer.take.remote(version, self._rank, self._workers)
        return coming

    def _receive(self, coming: ray.ObjectRef[Any]) -> Any:
        deadline = self._config.deadlines.batch
        try:
            return ray.get(coming, timeout=deadline)
        except GetTimeoutError:
            reason = (
                f"the learner waited {deadline:g} s for the batch of version {self._learner.version} (deadlines.batch)"
            )
            ray.get(self._conductor.stop.remote(reason))
            raise RunStopped(reason) from None

    def _replayed(self) -> list[Group]:
        """Groups of earlier iterations that are trained once more, as the objective's replay shares say."""
        groups = []
        for iterations, share in enumerate(self._replay, start=1):
            version = self._learner.version - iterations * self._iteration
            if version >= 0:
                earlier = from_arrow(self._receive(self._order(version)))
                groups += earlier[: round(share * len(earlier))]
        return groups

    def _publish(self, metrics: dict[str, float]) -> None:
        """Copy the weights; hashing and sending happen beside the next step."""
        if self._rank:
            return
        began = time.perf_counter()
        self._join_publishing()
        weights = self._weights()
        blocked = time.perf_counter() - began
        metrics["learner_busy_seconds"] += blocked
        version = self._learner.version
        told = self._conductor.trained.remote(version, metrics)
        self._publishing = self._thread.submit(self._send, version, weights, blocked, told)

    def _send(self, version: int, weights: list[Weights], blocked: float, told: ray.ObjectRef[Any]) -> None:
        publications = self._publications(weights, version)
        ray.get(told)
        ray.get(self._conductor.publish.remote(publications, blocked))

    def _join_publishing(self) -> None:
        if self._publishing is not None:
            self._publishing.result()
            self._publishing = None

    def _weights(self) -> list[Weights]:
        """A copy of every served policy that has new weights with this version."""
        policy, copies = self._learner.policy, []
        for name, parameters in self._learner.published().items():
            if name in self._served:
                with policy.under(parameters):
                    copies.append((name, policy.published_tensors(), policy.canary_logprobs(self._canaries)))
        return copies

    def _publications(self, weights: list[Weights], version: int) -> tuple[Publication, ...]:
        return tuple(self._publication(*entry, version) for entry in weights)

    def _publication(self, name: str, tensors: dict[str, torch.Tensor], logprobs: Any, version: int) -> Publication:
        payload, checksums = serialise(tensors)
        if version == self._config.publication.corrupt_version:
            payload = payload.copy()
            payload[-1] ^= 0x40
        return Publication(
            policy=name,
            version=version,
            payload=self._transport.send(payload),
            checksums=checksums,
            adapter_config=self._learner.policy.adapter_config(),
            canaries=self._canaries,
            canary_logprobs=logprobs,
        )

    def _checkpoint(self) -> None:
        """Learner and loop of one version, together; a barrier over all workers."""
        version = self._learner.version
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if self._rank == 0:
                self._join_publishing()
                snapshot = ray.get(self._conductor.snapshot.remote())
                (Path(folder) / SNAPSHOT_FILE).write_text(json.dumps(snapshot))
                torch.save(self._learner.state(), Path(folder) / STATE_FILE)
                checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report({"version": version}, checkpoint=checkpoint, checkpoint_dir_name=checkpoint_name(version))

    def _save_policy(self) -> None:
        part, folder = self._run_directory / "policy.part", self._run_directory / "policy"
        self._learner.policy.save(part)
        if not folder.exists():
            part.rename(folder)


def _all_reduce(tensor: torch.Tensor) -> torch.Tensor:
    torch.distributed.all_reduce(tensor)
    return tensor
