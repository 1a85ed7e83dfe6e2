"""One objective on one seed: started, or found finished, and read from what its run directory holds.

Contract: everything is read from `canaries.jsonl`, `events.jsonl` and `summary.json`; a run that went to its end is
never run again for the same configuration.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from actors.config import AlignConfig
from algorithms.games import FloatArray
from workflows.align import align
from workflows.run_directory import RunDirectory
from workflows.training import RunFailed
from workflows.verify.game import Match
from workflows.verify.measurement import Curve, Delay, curve, stable_delay, step_size
from workflows.verify.settings import Setting, method_of, objective_of


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Outcome:
    """A finished run and what it shows; the V policies are those of the objective's evaluated policy.

    `updates` [V] counts them, from 0; `versions` [V]: batches trained by then; `seconds` [V]: since the first group was
    admitted. `policies` [V, C, n]. `eta`: measured mirror step. `staleness`: {role: {"mean", "max"}}, in updates of the
    policy that wrote the role.
    """

    seed: int
    match: Match
    updates: FloatArray
    versions: FloatArray
    seconds: FloatArray
    policies: FloatArray
    curve: Curve
    eta: float
    delay: Delay
    staleness: Mapping[str, Mapping[str, float]]
    wall_seconds: float


def run(config: AlignConfig, console: Console) -> Path:
    """Run `config` unless its run directory holds the finished run; returns the run directory."""
    directory = RunDirectory(config).open()
    finished = directory.finished
    directory.close()
    if not finished:
        align(config, console=console)
    return directory.path


def read(directory: Path, setting: Setting, match: Match, seed: int) -> Outcome:
    """What a finished run of `setting` on `match` shows.

    Raises: `RunFailed` when its policies were not recorded.
    """
    versions, policies = _policies(directory / "canaries.jsonl", objective_of(setting).update.evaluated, match)
    seconds = _seconds(directory / "events.jsonl")
    summary = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    eta = step_size(match, policies, setting.pull)
    return Outcome(
        seed=seed,
        match=match,
        updates=np.arange(len(versions), dtype=np.float64),
        versions=np.array(versions, dtype=np.float64),
        seconds=np.array([seconds[version] for version in versions]),
        policies=policies,
        curve=curve(match, policies),
        eta=eta,
        delay=stable_delay(match, method_of(setting), eta, setting.pull),
        staleness=_staleness(summary["staleness"]),
        wall_seconds=summary["wall_seconds"],
    )


def _policies(path: Path, policy: str, match: Match) -> tuple[list[int], FloatArray]:
    """Versions at which `policy` was published, and its exact log-probabilities [V, C, n]; the last of a version."""
    found: dict[int, Any] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row["policy"] == policy:
                found[row["version"]] = row["logprobs"]
    if len(found) < 2:
        raise RunFailed(f"{path} holds {len(found)} versions of {policy!r}; delete its run directory and run it again")
    versions = sorted(found)
    return versions, np.stack([match.log_policies(found[version]) for version in versions])


def _seconds(path: Path) -> dict[int, float]:
    """Wall seconds at which each version was reached, since the first admission."""
    begun, reached = np.inf, {}
    for line in path.read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        if event["event"] == "admitted":
            begun = min(begun, event["time"])
        elif event["event"] == "trained":
            reached[event["version"] + 1] = event["time"]
    return {0: 0.0} | {version: time - begun for version, time in reached.items()}


def _staleness(tree: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Mean and largest staleness by role: the summary has that of pairs at the top, the others by name."""
    roles = {"pair": tree} | {role: part for role, part in tree.items() if isinstance(part, Mapping) and "mean" in part}
    return {role: {"mean": part["mean"], "max": part["max"]} for role, part in roles.items()}
