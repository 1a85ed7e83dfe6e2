"""Runs of the whole loop in a throw-away run directory, and what their step lines say about steady state."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from actors.config import AlignConfig
from workflows.config import parse_config

PROMPTS = "configs/prompts/instructions.jsonl"
HELDOUT = "configs/prompts/heldout.jsonl"
JUDGE = "benchmarks.judges:more_vowels"
REACHED = "the benchmark has what it asked for"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a finished run left behind."""

    steps: list[dict[str, Any]]
    """Step lines of `metrics.jsonl`, in order of version."""
    evaluations: list[dict[str, Any]]
    events: list[dict[str, Any]]
    summary: dict[str, Any]
    diagnostics: list[dict[str, Any]] = field(default_factory=list)
    """Lines of `diagnostics.jsonl`, where the run had any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SteadyState:
    """Sums over the steps of a window."""

    wall: float
    """Seconds."""
    generation: float
    """Busy seconds of an engine."""
    learning: float
    """Busy seconds of the learner."""
    completions: float
    step_seconds: float
    """Median."""
    exposed_seconds: float
    """Median of the exposed publication seconds."""

    @property
    def overlap_efficiency(self) -> float:
        """max(busy generation, busy learning) / wall."""
        return max(self.generation, self.learning) / self.wall

    @property
    def completions_per_second(self) -> float:
        """Trained completions per second."""
        return self.completions / self.wall


def configuration(model: str | Path, overrides: Mapping[str, Any]) -> AlignConfig:
    """A configuration for measuring: `overrides` are `{"learner": {"method": "full"}, ...}` over plain defaults."""
    tree: dict[str, Any] = {
        "name": "benchmark",
        "model": {"name": str(model), "dtype": "float32", "context": 256},
        "data": {"prompts": PROMPTS},
        "objective": {"options": {"candidates": 4, "beta": 0.1}},
        "loop": {"steps": 1},
        "rollout": {"max_new_tokens": 64},
        "scoring": {"panel": [JUDGE], "cpus": 0, "truncation_penalty": 0.0},
        "learner": {"method": "full", "checkpoint_every": 1000, "schedule": "constant"},
        "deadlines": {"generate": 600},
    }
    for component, values in overrides.items():
        tree[component] = {**tree.get(component, {}), **values} if isinstance(values, Mapping) else values
    return parse_config(tree)


def run_loop(config: AlignConfig, goal: float | None = None) -> Run:
    """Run `config` in a run directory of its own, which is removed afterwards.

    With a `goal` the run ends at the first evaluation whose win rate reaches it.
    """
    import ray

    from workflows.align import align
    from workflows.training import RunFailed

    with tempfile.TemporaryDirectory(prefix="nashloop-benchmark-") as folder:
        try:
            align(config.model_copy(update={"directory": folder}), watch=partial(reason_to_end, goal=goal))
        except RunFailed as ended:
            if REACHED not in str(ended):
                raise
        finally:
            ray.shutdown()  # nothing of it may run beside the next measurement
        directory = Path(folder) / config.name
        metrics = _lines(directory / "metrics.jsonl")
        return Run(
            steps=[line for line in metrics if line["kind"] == "step"],
            evaluations=[line for line in metrics if line["kind"] == "evaluation"],
            events=_lines(directory / "events.jsonl"),
            summary=json.loads((directory / "summary.json").read_text(encoding="utf-8")),
            diagnostics=_lines(directory / "diagnostics.jsonl"),
        )


def reason_to_end(status: Mapping[str, Any], goal: float | None) -> str | None:
    """Why a run of this status ends now: its last evaluation reaches the goal. None as long as it goes on."""
    evaluations = [status["evaluation"]] if status["evaluation"] else []
    return REACHED if goal is not None and first_version_reaching(evaluations, goal) is not None else None


def steady_state(steps: Sequence[Mapping[str, Any]], first: int, last: int) -> SteadyState:
    """Figures of the steps to versions `first + 1` .. `last`.

    At the start nothing is in flight, and at the end nothing more is admitted: neither belongs to steady state.
    """
    if not 0 < first < last <= len(steps):
        raise ValueError(f"a window needs 0 < first < last <= {len(steps)} steps, got {first} and {last}")
    window = list(zip(steps[first - 1 : last - 1], steps[first:last], strict=True))
    walls = [after["seconds"] - before["seconds"] for before, after in window]
    lines = [after for _, after in window]
    exposed = [line["exposed_publication_seconds"] for line in lines if "exposed_publication_seconds" in line]
    return SteadyState(
        wall=sum(walls),
        generation=sum(wall * (1 - line["idle_rollout"]) for wall, line in zip(walls, lines, strict=True)),
        learning=sum(wall * (1 - line["idle_learner"]) for wall, line in zip(walls, lines, strict=True)),
        completions=sum(line["batch_completions"] for line in lines),
        step_seconds=median(walls),
        exposed_seconds=median(exposed) if exposed else 0.0,
    )


def seconds_to_version(events: Sequence[Mapping[str, Any]], version: int) -> float:
    """Seconds from the first admission until `version` was trained."""
    admitted = min(event["time"] for event in events if event["event"] == "admitted")
    trained = min(e["time"] for e in events if e["event"] == "trained" and e["version"] == version - 1)
    return float(trained - admitted)


def first_version_reaching(evaluations: Sequence[Mapping[str, Any]], goal: float) -> int | None:
    """The first evaluated version whose win rate is at least `goal`; none if there is no such version."""
    reached = [line["version"] for line in evaluations if line["win_rate"]["mean"] >= goal]
    return min(reached, default=None)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
