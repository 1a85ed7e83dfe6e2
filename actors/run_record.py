"""The conductor's memory of a run: it turns what happens into events, metrics and the figures of the summary."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from actors.figures import Figures, Usage
from actors.journal import Journal
from actors.publication import LoadReport
from actors.records import GroupSummary, Source
from algorithms.delay_rule import delay_rule
from algorithms.objective import Objective

Busy = tuple[float, float]
"""Busy seconds of all engines and of all scorers so far."""

WIN_RATE_GOAL = 0.70


class RunRecord:
    """Clock, journal and figures of one run, over all its lives."""

    def __init__(self, run_directory: str, objective: Objective, engines: int, scorers: int) -> None:
        self._journal = Journal(run_directory)
        self._objective = objective
        self._engines, self._scorers = engines, scorers
        self._figures = Figures()
        self._began = time.monotonic()
        self._earlier = Usage()
        self._learner_busy = 0.0
        self._last = Usage()
        self._pending: dict[int, list[tuple[Source, ...]]] = {}
        self._loaded: dict[str, float] = {}
        self._evaluation: dict[str, Any] | None = None
        self._latest: dict[str, Any] = {}
        self._goal_seconds: float | None = None

    def event(self, name: str, **fields: Any) -> None:
        """One line of `events.jsonl`."""
        self._journal.event(name, **fields)

    def generated(self, summary: GroupSummary) -> None:
        """An engine finished a group."""
        self._figures.generated(summary)

    def canaries(self, version: int, policy: str, logprobs: Sequence[Mapping[int, float]]) -> None:
        """What a policy's learner said of the canaries."""
        self._journal.canaries(version, policy, logprobs)

    def released(self, version: int, sources: list[tuple[Source, ...]], busy: Busy) -> None:
        """A batch was handed to the learner."""
        if not self._figures.staleness and not self._pending:
            self._last = self._figures.begun = self._usage(busy)
        self._pending[version] = sources

    def step(self, version: int, metrics: dict[str, Any], busy: Busy, ledger: dict[str, int]) -> None:
        """The learner reached `version`; one line of `metrics.jsonl`."""
        self._learner_busy += metrics["learner_busy_seconds"]
        self._figures.trained_tokens += int(metrics["batch_trained_tokens"])
        if "moved_share" in metrics:
            self._figures.moved(metrics["moved_share"])
        usage = self._usage(busy)
        wall = max(usage.wall - self._last.wall, 1e-9)
        used = usage.since(self._last, self._engines, self._scorers)
        self._last = usage
        self._latest = {
            "seconds": usage.wall,
            "groups": ledger["trained"],
            **metrics,
            **self._figures.trained(version - 1, self._pending.pop(version - 1), self._objective.update.age),
            **used,
            **self._loaded,
            "completions_per_second": metrics["batch_completions"] / wall,
            "generated_tokens_per_second": metrics["batch_generated_tokens"] / wall,
            "learner_tokens_per_second": metrics["batch_trained_tokens"] / wall,
        }
        self._journal.metrics("step", version, self._latest)

    def published(self, reports: list[LoadReport], seconds: float, exposed: float) -> None:
        """All engines serve a version, proved."""
        self._loaded = self._figures.published(reports, seconds, exposed)
        self.event("published", version=reports[0].version, seconds=round(seconds, 4), exposed=round(exposed, 4))

    def evaluation(self, version: int, figures: dict[str, Any]) -> None:
        """A win rate against the start."""
        self._evaluation = {"version": version, **figures}
        seconds = self._seconds()
        if self._goal_seconds is None and figures["win_rate"]["mean"] >= WIN_RATE_GOAL:
            self._goal_seconds = seconds
        self._journal.metrics("evaluation", version, {"seconds": seconds, **figures})

    def status(self, busy: Busy) -> dict[str, Any]:
        """What progress shows."""
        usage = self._usage(busy)
        figures = self._figures.summary(usage, self._engines, self._scorers, 0)
        return {
            "seconds": usage.wall,
            "begun_seconds": self._figures.begun.wall,
            "evaluation": self._evaluation,
            "latest": self._latest,
            "throughput": figures["throughput"],
            "overlap_efficiency": figures["overlap_efficiency"],
            "staleness_mean": figures["staleness"]["mean"],
        }

    def summary(self, busy: Busy, bound: int, late_bound: int | None = None) -> dict[str, Any]:
        """The run's part of `summary.json`; `late_bound` holds for the roles that wait for fresh weights."""
        evaluation = self._evaluation or {}
        gold = {name: evaluation[name] for name in ("gold_win_rate",) if name in evaluation}
        return {
            "win_rate": evaluation.get("win_rate"),
            **gold,
            "kl": self._latest.get("kl"),
            "seconds_to_win_rate_0_70": self._goal_seconds,
            "loop_seconds": self._seconds(),
            "delay_rule": self._delay_rule(),
            **self._figures.summary(self._usage(busy), self._engines, self._scorers, bound, late_bound),
        }

    def _delay_rule(self) -> dict[str, Any] | None:
        share = self._figures.moved_share
        rule = None if share is None else delay_rule(self._objective, share, self._figures.opponent_delay())
        return None if rule is None else asdict(rule) | {"kept": rule.kept}

    def snapshot(self) -> dict[str, Any]:
        """JSON that `resume` understands; what was written so far is on disk."""
        self._journal.flush()
        return {
            "figures": self._figures.snapshot(),
            "usage": asdict(self._last) | {"wall": self._seconds()},
            "latest": self._latest,
            "goal_seconds": self._goal_seconds,
        }

    def begin(self) -> None:
        """Start at version 0; what an earlier life measured before its first checkpoint is measured again."""
        self._journal.rewind(-1)

    def resume(self, snapshot: dict[str, Any], version: int) -> None:
        """Go on from a snapshot that was taken at `version`."""
        self._figures = Figures.restore(snapshot["figures"])
        self._earlier = self._last = Usage(**snapshot["usage"])
        self._learner_busy = self._earlier.learner
        self._latest = snapshot["latest"]
        self._goal_seconds = snapshot["goal_seconds"]
        self._journal.rewind(version)

    def close(self) -> None:
        """Close the files."""
        self._journal.close()

    def _seconds(self) -> float:
        return self._earlier.wall + time.monotonic() - self._began

    def _usage(self, busy: Busy) -> Usage:
        return Usage(
            wall=self._seconds(),
            rollout=self._earlier.rollout + busy[0],
            scoring=self._earlier.scoring + busy[1],
            learner=self._learner_busy,
        )
