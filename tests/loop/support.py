"""Runs of the real loop for tests: what they are made of, how they are started, and how what they left is read."""

import copy
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from rich.console import Console

from actors.config import AlignConfig
from actors.records import SCHEMA, Group, from_arrow
from workflows.align import align

TOGETHER = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2
"""Runs at once: most of a short run is imports, which leave one of two cores idle to another process of the tests."""

BASE: dict[str, Any] = {
    "model": {"dtype": "float32", "context": 128},
    "objective": {"name": "online_dpo", "options": {"beta": 0.1, "candidates": 3, "pair_choice": "all"}},
    "loop": {"steps": 6, "batch": 4, "eta": 0},
    "rollout": {"max_new_tokens": 16, "max_sequences": 64},
    "scoring": {"panel": ["tests.judges:ascii_share"], "truncation_penalty": 0, "cpus": 0},
    "learner": {"method": "full", "autocast": False, "learning_rate": 1e-3, "checkpoint_every": 2},
    "evaluation": {"final_prompts": 12},
    "deadlines": {"start": 400, "generate": 90, "score": 60, "publish": 90, "batch": 400, "step": 200},
}
"""A synchronous run of full fine-tuning; the tests of a run name what is different."""

RUNS: dict[str, dict[str, Any]] = {
    "asynchronous": {
        "loop": {"steps": 20, "eta": 4},
        "rollout": {"engines": 2, "max_new_tokens": 32},
        "scoring": {"scorers": 2},
        "learner": {"checkpoint_every": 1, "checkpoints_kept": 100},
        "evaluation": {"every": 5, "prompts": 4},
    },
    "synchronous": {},
    "frozen": {"learner": {"learning_rate": 0}, "loop": {"steps": 10, "eta": 4}},
    "corrupted": {"publication": {"corrupt_version": 2}},
    "two_workers": {"learner": {"workers": 2}},
    "extragradient": {
        "objective": {"name": "egpo", "options": {"candidates": 2, "opponents": 2}},
        "loop": {"steps": 8, "eta": 2},
        "learner": {"method": "lora", "lora": {"rank": 4}, "learning_rate": 1e-2},
    },
    "alternating": {
        "objective": {"name": "egpo", "options": {"candidates": 2, "opponents": 2, "alternate": True}},
        "loop": {"steps": 6, "eta": 2},
    },
    "optimistic": {
        "objective": {"name": "optimistic_egpo", "options": {"candidates": 2, "opponents": 2}},
        "loop": {"steps": 4, "eta": 2},
    },
    "misbehaving": {
        "loop": {"steps": 5, "eta": 1},
        "data": {"prompts": "faulty"},
        "scoring": {"panel": ["tests.judges:misbehaving"], "scorers": 2, "attempts": 2, "max_rejected_share": 0.9},
        "deadlines": {"score": 15},
    },
}
"""Runs that several tests look at, by fixture name."""


def merged(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `tree` with the leaves of `changes`."""
    result = copy.deepcopy(dict(tree))
    for key, value in changes.items():
        before = result.get(key)
        result[key] = merged(before, value) if isinstance(value, Mapping) and isinstance(before, dict) else value
    return result


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A run that has ended."""

    config: AlignConfig
    error: Exception | None
    seconds: float

    @property
    def path(self) -> Path:
        """The run directory."""
        return Path(self.config.directory) / self.config.name

    def succeeded(self) -> "Outcome":
        """Itself, unless it failed."""
        if self.error:
            raise AssertionError(f"the run {self.config.name} failed") from self.error
        return self

    @property
    def summary(self) -> dict[str, Any]:
        """`summary.json`."""
        found: dict[str, Any] = json.loads((self.path / "summary.json").read_text())
        return found

    def events(self, *names: str) -> list[dict[str, Any]]:
        """Lines of `events.jsonl`, those of these names or all."""
        return [event for event in read_lines(self.path / "events.jsonl") if not names or event["event"] in names]

    def metrics(self, kind: str) -> list[dict[str, Any]]:
        """Lines of `metrics.jsonl` of one kind."""
        return [line for line in read_lines(self.path / "metrics.jsonl") if line["kind"] == kind]

    def experience(self) -> pa.Table:
        """All trained groups, in the order of training."""
        return pa.concat_tables(
            [pq.read_table(path, schema=SCHEMA) for path in sorted((self.path / "experience").glob("*"))]
        )

    def trained(self) -> list[tuple[int, Group]]:
        """(version whose batch it was in, group) of all trained groups."""
        table = self.experience()
        return list(zip(table["trained_version"].to_pylist(), from_arrow(table), strict=True))

    def weights(self) -> dict[str, torch.Tensor]:
        """The final policy's, as anything would load them."""
        return load_weights(self.path / "policy")

    def checkpoint(self, version: int) -> dict[str, torch.Tensor]:
        """The trained parameters at `version`."""
        path = self.path / "checkpoints" / f"version-{version:08d}" / "learner.pt"
        found: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["parameters"]
        return found


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a JSONL file that may still be written to."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def half_way(path: Path) -> bool:
    """Whether a run has trained three versions, and Ray Train knows of a checkpoint, which it does after a moment."""
    registered = path / "checkpoints" / "checkpoint_manager_snapshot.json"
    known = registered.exists() and "version-" in registered.read_text()
    return known and len(read_lines(path / "metrics.jsonl")) >= 3


def load_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Parameters of a Hugging Face folder by name."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def same_weights(left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]) -> bool:
    """Whether two sets of parameters are equal bit for bit."""
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Poll until `condition` is true, and return its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s for {what}")
        time.sleep(0.05)
    return value


class Runs:
    """Starts runs on the session's cluster, a few at a time, and remembers their outcomes."""

    def __init__(self, folder: Path, model: Path, prompts: Mapping[str, str]) -> None:
        self.folder = folder
        self._model = model
        self._prompts = prompts
        self._threads = ThreadPoolExecutor(TOGETHER, thread_name_prefix="run")
        self._outcomes: dict[str, Future[Outcome]] = {}

    def tree(self, name: str, **changes: Any) -> dict[str, Any]:
        """The configuration tree of a run; `data` may name one of the session's prompt files."""
        own = {
            "name": name,
            "directory": str(self.folder),
            "model": {"name": str(self._model)},
            "data": {"prompts": "prompts", "heldout": "heldout"},
        }
        tree = merged(merged(BASE, own), changes)
        # Options belong to an objective, so another one brings all of its own.
        tree["objective"] = changes.get("objective", tree["objective"])
        tree["data"] = {key: self._prompts.get(file, file) for key, file in tree["data"].items()}
        return tree

    def config(self, name: str, **changes: Any) -> AlignConfig:
        """The checked configuration of a run."""
        return AlignConfig.model_validate(self.tree(name, **changes))

    def config_file(self, name: str, **changes: Any) -> Path:
        """The configuration of a run as a YAML file."""
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(self.tree(name, **changes)), encoding="utf-8")
        return path

    def start(self, name: str, **changes: Any) -> "Future[Outcome]":
        """Begin a run, or find the one of this name."""
        if name not in self._outcomes:
            self._outcomes[name] = self._threads.submit(self.run, self.config(name, **changes))
        return self._outcomes[name]

    def shared(self, name: str) -> Outcome:
        """The outcome of one of `RUNS`."""
        return self.start(name, **RUNS[name]).result()

    def run(self, config: AlignConfig) -> Outcome:
        """One run, to its end."""
        began, error = time.monotonic(), None
        with (self.folder / f"{config.name}.log").open("a", encoding="utf-8") as log:
            try:
                align(config, console=Console(file=log))
            except Exception as found:  # the test that asked for the run judges it
                error = found
        return Outcome(config=config, error=error, seconds=time.monotonic() - began)

    def close(self) -> None:
        """Start nothing more and wait for what runs."""
        self._threads.shutdown(wait=True, cancel_futures=True)


def wanted(fixtures: Iterator[str]) -> list[str]:
    """Names of `RUNS` among the fixtures of the tests to come, in their order."""
    return [name for name in dict.fromkeys(fixtures) if name in RUNS]
