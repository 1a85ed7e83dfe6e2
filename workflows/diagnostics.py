"""Diagnostics while a run goes on: rules over its figures, and measurements from its checkpoints, beside the loop.

The driver calls this with every status of the run, so that nothing of it is on the way of a group or of an update.
Rules are arithmetic on figures that exist anyway. A measurement (KL, entropy and the most likely tokens, of whole
next-token distributions) is left to a Ray actor that runs when nothing else wants the processor. It reads a checkpoint
and the groups last trained on from the run directory; there is never more than one, and its failure is told and ends
nothing.

`diagnostics.jsonl` gets a line a measurement, `alarms.jsonl` a line for each rule that is broken, once.
"""

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.checkpoints import CHECKPOINTS, STATE_FILE, checkpoint_name, export_checkpoint
from actors.config import AlignConfig, DiagnosticsConfig
from actors.planes import cause_of
from actors.records import SCHEMA, Group, from_arrow
from algorithms.entanglement import Entanglement
from algorithms.ranking_accuracy import ranking_accuracy
from algorithms.sampling import FIXED
from algorithms.stop_rules import ChosenFalls, EntropyCollapse, Reversal, Rule, newly_broken
from workflows.evaluate.likelihood import Measured, measure

PER_TOKEN = ("kl", "entropy", "top_mass", "top_entropy", "top_renormalised_entropy")
"""Means over tokens."""
MEASURED = (*PER_TOKEN, "ranking_accuracy", "entanglement_ratio")
WRITER = "current"


class Diagnostics:
    """The rules and measurements of one run."""

    def __init__(self, config: AlignConfig, run: Path, tell: Callable[[str], None]) -> None:
        """`tell` gets sentences for the person who watches. What an earlier life of the run wrote is read."""
        self._config, self._run, self._tell = config, run, tell
        self._rules = rules_of(config.diagnostics)
        self._rows: dict[int, dict[str, float]] = {}
        self._broken: set[str] = set()
        self._measuring: tuple[int, Any] | None = None
        # Now, because its imports take seconds of a processor that the loop wants later.
        self._meter: Any = _start_meter() if config.diagnostics.every else None
        for name in ("metrics.jsonl", "diagnostics.jsonl"):
            for row in _lines(run / name):
                if row.get("kind", "step") == "step":
                    self._add(int(row["version"]), row)
        self._measured = max((int(row["version"]) for row in _lines(run / "diagnostics.jsonl")), default=0)

    def __call__(self, status: Mapping[str, Any]) -> str | None:
        """Take the figures of a version, begin a measurement when one is due, and look at the rules.

        Returns: why the run has to end, where a rule that was told to stop it is broken.
        """
        version = int(status["version"])
        if version > 0 and status["latest"]:
            self._add(version, status["latest"])
        self._collect(0.0)
        self._begin(version)
        return self._check(version)

    def close(self, seconds: float) -> None:
        """Wait for a measurement that has begun, at most `seconds`, and measure no more."""
        self._collect(seconds)
        if self._measuring is not None:
            version, self._measuring = self._measuring[0], None
            self._tell(f"version {version} was not measured: that had not ended {seconds:.0f} s after the run")
        self._dismiss()
        self._check(max(self._rows, default=0))

    def _add(self, version: int, figures: Mapping[str, Any]) -> None:
        numbers = {name: float(value) for name, value in figures.items() if isinstance(value, int | float)}
        self._rows[version] = {**self._rows.get(version, {}), **numbers}

    def _check(self, version: int) -> str | None:
        # A resumed run measures the versions after its checkpoint again; their old figures are not its past.
        history = [self._rows[v] for v in sorted(self._rows) if v <= version]
        ends = None
        for name, reason in newly_broken(self._rules, history, self._broken).items():
            self._broken.add(name)
            stops = name in self._config.diagnostics.stop
            _append(self._run / "alarms.jsonl", {"version": version, "rule": name, "stop": stops, "reason": reason})
            self._tell(f"version {version}: {reason}")
            if stops and ends is None:
                ends = (
                    f"version {version}: {reason}. The rule {name} (diagnostics.stop) ends the run; its checkpoints "
                    "can be evaluated, or resumed from without the rule"
                )
        return ends

    def _begin(self, version: int) -> None:
        every = self._config.diagnostics.every
        if not every or self._measuring or version < self._measured + every:
            return
        ready = [at for at in _checkpoints(self._run) if self._measured + every <= at <= version]
        if ready:
            self._meter = self._meter or _start_meter()
            self._measuring = (ready[-1], self._meter.measure.remote(self._config, str(self._run), ready[-1]))

    def _collect(self, seconds: float) -> None:
        if self._measuring is None:
            return
        version, reference = self._measuring
        done, _ = ray.wait([reference], timeout=seconds)
        if not done:
            return
        self._measuring, self._measured = None, version
        try:
            self._measured, figures = ray.get(reference)
        except Exception as error:  # whatever it is, a diagnostic must not end the run that it looks at
            self._dismiss()
            self._tell(f"version {version} could not be measured: {cause_of(error)}")
            return
        _append(self._run / "diagnostics.jsonl", {"version": self._measured, **figures})
        self._add(self._measured, figures)

    def _dismiss(self) -> None:
        if self._meter is not None:
            ray.kill(self._meter)
            self._meter = None


def rules_of(options: DiagnosticsConfig) -> dict[str, Rule]:
    """The rules that warn or stop, by name."""
    known: dict[str, Rule] = {
        "entropy_collapse": EntropyCollapse(share=options.entropy_share),
        "chosen_falls": ChosenFalls(limit=options.chosen_limit),
        # Measurements are rare and each is a mean over many tokens already.
        "reversal": Reversal(window=1, tolerance=options.reversal_tolerance),
    }
    return {name: rule for name, rule in known.items() if name in (*options.warn, *options.stop)}


def measure_checkpoint(config: AlignConfig, run: str, version: int) -> dict[str, float]:
    """The figures in `MEASURED` at a checkpoint, on groups that its last update was trained on; see `PER_TOKEN`."""
    # The loop may remove the checkpoint meanwhile; what is open can be read to its end.
    with (
        (Path(run) / CHECKPOINTS / checkpoint_name(version) / STATE_FILE).open("rb") as state,
        tempfile.TemporaryDirectory(prefix="nashloop-diagnostics-") as folder,
    ):
        groups = _trained_on(config, Path(run), version)
        model = Path(folder) / "policy"
        export_checkpoint(config, state, model)
        found = measure(config, str(model), config.model.name, groups, WRITER)
    rows = found.likelihoods
    figures = {name: float(getattr(rows, name).sum() / rows.tokens.sum()) for name in PER_TOKEN}
    return figures | _of_pairs(groups, found)


def _trained_on(config: AlignConfig, run: Path, version: int) -> list[Group]:
    """The first groups of the batch that made a version, with the answers of trained policies only."""
    table = pq.read_table(run / "experience" / f"version-{version - 1:08d}.parquet", schema=SCHEMA)
    groups = []
    for group in from_arrow(table.slice(0, config.diagnostics.groups)):
        kept = [k for k, candidate in enumerate(group.candidates) if candidate.policy not in FIXED]
        candidates = tuple(replace(group.candidates[k], policy=WRITER) for k in kept)
        assert group.preference is not None
        groups.append(replace(group, candidates=candidates, preference=group.preference[kept][:, kept]))
    return groups


def _of_pairs(groups: Sequence[Group], found: Measured) -> dict[str, float]:
    """Ranking accuracy on the pairs that the panel tells apart, and the entanglement of its best and worst answers.

    Without such pairs there are none of these figures.
    """
    first, pairs = 0, []
    for group in groups:
        assert group.preference is not None
        pairs += [(first + i, first + j) for i, j in np.argwhere(group.preference > 0.5)]
        first += len(group.candidates)
    figures = {}
    if pairs:
        chosen, rejected = np.array(pairs).T
        logprob = found.likelihoods.logprob
        figures["ranking_accuracy"] = ranking_accuracy(logprob[chosen], logprob[rejected])
    if len(found.products):
        figures["entanglement_ratio"] = float(Entanglement.of(found.products).ratio().mean())
    return figures


class Meter:
    """A process that measures with what the loop leaves of the processor; it lives on, to import its modules once."""

    def __init__(self) -> None:
        import peft  # noqa: F401  # the most of what a measurement needs, and Transformers with it

        # Ray's workers are nice themselves: beside them the lowest niceness would still get a third of a core.
        try:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        except OSError:  # a container may forbid it
            os.nice(19)

    def measure(self, config: AlignConfig, run: str, version: int) -> tuple[int, dict[str, float]]:
        """See `measure_checkpoint`; of the newest checkpoint, because a run keeps few and its start takes a while."""
        newest = max([version, *_checkpoints(Path(run))])
        return newest, measure_checkpoint(config, run, newest)


def _start_meter() -> Any:
    # The driver's node has the run directory.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Meter).options(num_cpus=0, scheduling_strategy=here).remote()


def _checkpoints(run: Path) -> list[int]:
    found = (run / CHECKPOINTS).glob(f"version-*/{STATE_FILE}")
    return sorted(int(state.parent.name.partition("-")[2]) for state in found)


def _lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a JSONL file; a driver that was killed may have left half of one."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _append(path: Path, row: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
