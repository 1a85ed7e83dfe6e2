"""Figures of a run: how planes were used, how stale groups were, how weights travelled.

Pure arithmetic on what the conductor observes; time comes in as an argument. Nothing here grows with the number of
groups or versions.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from actors.publication import LoadReport
from actors.records import GroupSummary, Source
from algorithms.diagnostics import overlap_efficiency

KEPT_PUBLICATIONS = 512
MAIN_ROLE = "pair"
"""The role whose staleness stands for the run's."""

Age = Callable[[str, int, int], int]
"""Updates of a policy between the weights that sampled and those that train: `algorithms.sampling.Update.age`."""


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
        # Busy seconds are read a moment after the wall's, and a plane is busy no longer than all the time.
        rollout = min((self.rollout - before.rollout) / engines, wall)
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

    staleness: dict[str, Counter[int]] = field(default_factory=dict)
    """By role: how many groups were trained at which age."""
    completions: int = 0
    generated_tokens: int = 0
    trained_tokens: int = 0
    publications: int = 0
    publication_seconds: list[float] = field(default_factory=list)
    exposed_seconds: list[float] = field(default_factory=list)
    """Of the latest publications, at most `KEPT_PUBLICATIONS`."""
    moved_shares: float = 0.0
    measured_steps: int = 0
    """Steps whose share of the way to their target was measured, and the sum of these shares."""
    mismatch_kl: float = 0.0
    mismatch_max_abs: float = 0.0
    begun: Usage = Usage()
    """Usage when the first batch was handed over: start-up is not steady state."""

    def generated(self, summary: GroupSummary) -> None:
        """Count a group that an engine finished."""
        self.completions += len(summary.lengths)
        self.generated_tokens += sum(summary.lengths)

    def trained(self, version: int, sources: Sequence[tuple[Source, ...]], age: Age) -> dict[str, float]:
        """Count the staleness of a batch that was trained at `version`, given what wrote each of its groups."""
        ages: dict[str, list[int]] = {}
        for group in sources:
            oldest: dict[str, int] = {}
            for source in group:
                updates = age(source.policy, source.version, version)
                oldest[source.role] = max(oldest.get(source.role, 0), updates)
            for role, updates in oldest.items():
                ages.setdefault(role, []).append(updates)
        figures: dict[str, float] = {}
        for role, stale in ages.items():
            self.staleness.setdefault(role, Counter()).update(stale)
            prefix = "" if role == MAIN_ROLE else f"{role}_"
            figures |= {f"{prefix}staleness_mean": sum(stale) / len(stale), f"{prefix}staleness_max": float(max(stale))}
        return figures

    def moved(self, share: float) -> None:
        """Count a step whose share of the way to its target was measured."""
        self.moved_shares += share
        self.measured_steps += 1

    @property
    def moved_share(self) -> float | None:
        """Mean share of the way to its target that a step went; none if none was measured."""
        return self.moved_shares / self.measured_steps if self.measured_steps else None

    def opponent_delay(self) -> int:
        """The oldest opponents that were trained on: candidates with that role, or the pairs where these play it."""
        ages = self.staleness.get("opponent") or self.staleness.get(MAIN_ROLE) or Counter({0: 0})
        return max(ages)

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

    def summary(
        self, usage: Usage, engines: int, scorers: int, bound: int, late_bound: int | None = None
    ) -> dict[str, Any]:
        """The parts of `summary.json` that the promises are read from; `late_bound` is that of fresh opponents."""
        used = usage.since(self.begun, engines, scorers)
        wall = max(usage.wall - self.begun.wall, 1e-9)
        return {
            "staleness": _staleness(self.staleness.get(MAIN_ROLE, Counter()), bound)
            | {
                role: _staleness(ages, bound if late_bound is None else late_bound)
                for role, ages in self.staleness.items()
                if role != MAIN_ROLE
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
        ages = {role: {str(k): n for k, n in counts.items()} for role, counts in self.staleness.items()}
        return asdict(self) | {"staleness": ages}

    @classmethod
    def restore(cls, snapshot: dict[str, Any]) -> "Figures":
        """The figures of a snapshot."""
        ages = snapshot["staleness"].items()
        staleness = {role: Counter({int(k): n for k, n in counts.items()}) for role, counts in ages}
        return cls(**snapshot | {"staleness": staleness, "begun": Usage(**snapshot["begun"])})


def _staleness(ages: Counter[int], bound: int) -> dict[str, Any]:
    total = ages.total()
    return {
        "bound": bound,
        "max": max(ages, default=0),
        "mean": sum(age * count for age, count in ages.items()) / total if total else 0.0,
        "histogram": {str(age): ages[age] for age in sorted(ages)},
    }


def _median(values: list[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if ordered else 0.0
