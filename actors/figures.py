"""Figures of a run: how planes were used, how stale groups were, how weights travelled.

Pure arithmetic on what the conductor observes; time comes in as an argument. Nothing here grows with the number of
groups or versions.
"""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from actors.publication import LoadReport
from actors.records import GroupSummary
from algorithms.diagnostics import overlap_efficiency

KEPT_PUBLICATIONS = 512


@dataclass(frozen=True, slots=True)
class Usage:
    """Busy seconds of each plane, summed over its members, up to a moment."""

    wall: float = 0.0
    rollout: float = 0.0
    scoring: float = 0.0
    learner: float = 0.0

    def since(self, before: "Usage", engines: int, scorers: int) -> dict[str, float]:
        """Idle shares and overlap efficiency of the interval after `before`."""
        wall = max(self.wall - before.wall, 1e-9)
        rollout = (self.rollout - before.rollout) / engines
        scoring = (self.scoring - before.scoring) / scorers
        # A step's seconds arrive with its end, and may have begun before this interval did.
        learner = min(self.learner - before.learner, wall)
        return {
            "idle_rollout": max(0.0, 1 - rollout / wall),
            "idle_scoring": max(0.0, 1 - scoring / wall),
            "idle_learner": max(0.0, 1 - learner / wall),
            "overlap_efficiency": overlap_efficiency(rollout, learner, wall),
        }


@dataclass(slots=True)
class Figures:
    """What accumulates over a run."""

    staleness: Counter[int] = field(default_factory=Counter)
    completions: int = 0
    generated_tokens: int = 0
    trained_tokens: int = 0
    publications: int = 0
    publication_seconds: list[float] = field(default_factory=list)
    exposed_seconds: list[float] = field(default_factory=list)
    """Of the latest publications, at most `KEPT_PUBLICATIONS`."""
    mismatch_kl: float = 0.0
    mismatch_max_abs: float = 0.0
    begun: Usage = Usage()
    """Usage when the first batch was handed over: start-up is not steady state."""

    def generated(self, summary: GroupSummary) -> None:
        """Count a group that an engine finished."""
        self.completions += len(summary.lengths)
        self.generated_tokens += sum(summary.lengths)

    def trained(self, version: int, oldest_versions: list[int]) -> dict[str, float]:
        """Count the staleness of a batch that was trained at `version`."""
        stale = [version - oldest for oldest in oldest_versions]
        self.staleness.update(stale)
        return {"staleness_mean": sum(stale) / len(stale), "staleness_max": float(max(stale))}

    def published(self, reports: list[LoadReport], seconds: float, exposed: float) -> dict[str, float]:
        """Count a publication that every engine has loaded and proved."""
        self.publications += 1
        self.publication_seconds = [*self.publication_seconds, seconds][-KEPT_PUBLICATIONS:]
        self.exposed_seconds = [*self.exposed_seconds, exposed][-KEPT_PUBLICATIONS:]
        kl = max(report.mismatch_kl for report in reports)
        largest = max(report.mismatch_max_abs for report in reports)
        self.mismatch_kl = max(self.mismatch_kl, kl)
        self.mismatch_max_abs = max(self.mismatch_max_abs, largest)
        return {
            "publication_seconds": seconds,
            "exposed_publication_seconds": exposed,
            "mismatch_kl": kl,
            "mismatch_max_abs_logprob": largest,
        }

    def summary(self, usage: Usage, engines: int, scorers: int, bound: int) -> dict[str, Any]:
        """The parts of `summary.json` that the promises are read from."""
        used = usage.since(self.begun, engines, scorers)
        wall = max(usage.wall - self.begun.wall, 1e-9)
        total = self.staleness.total()
        stale = sum(value * count for value, count in self.staleness.items())
        return {
            "staleness": {
                "bound": bound,
                "max": max(self.staleness, default=0),
                "mean": stale / total if total else 0.0,
                "histogram": {str(value): self.staleness[value] for value in sorted(self.staleness)},
            },
            "overlap_efficiency": used["overlap_efficiency"],
            "idle": {plane: used[f"idle_{plane}"] for plane in ("rollout", "scoring", "learner")},
            "publication": {
                "count": self.publications,
                "seconds_median": _median(self.publication_seconds),
                "exposed_seconds_median": _median(self.exposed_seconds),
            },
            "mismatch": {"kl": self.mismatch_kl, "max_abs_logprob": self.mismatch_max_abs},
            "throughput": {
                "completions_per_second": self.completions / wall,
                "generated_tokens_per_second": self.generated_tokens / wall,
                "learner_tokens_per_second": self.trained_tokens / wall,
            },
        }

    def snapshot(self) -> dict[str, Any]:
        """JSON that `restore` understands."""
        return asdict(self) | {"staleness": {str(k): n for k, n in self.staleness.items()}}

    @classmethod
    def restore(cls, snapshot: dict[str, Any]) -> "Figures":
        """The figures of a snapshot."""
        staleness = Counter({int(k): n for k, n in snapshot["staleness"].items()})
        return cls(**snapshot | {"staleness": staleness, "begun": Usage(**snapshot["begun"])})


def _median(values: list[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if ordered else 0.0
