"""From runs to `summary.json`: per objective the figures over seeds, with intervals."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from algorithms.games import FloatArray
from workflows.verify.measurement import interval
from workflows.verify.runs import Outcome
from workflows.verify.settings import Setting, method_of

Outcomes = Mapping[str, Sequence[Outcome]]
"""Per objective, one a seed."""

FIGURES: dict[str, Callable[[Outcome], float]] = {
    "start_gap": lambda outcome: float(outcome.curve.gap[0]),
    "end_gap": lambda outcome: float(outcome.curve.gap[-1]),
    "ratio": lambda outcome: float(outcome.curve.gap[-1] / outcome.curve.gap[0]),
    "end_divergence": lambda outcome: float(outcome.curve.divergence[-1]),
    "end_average_gap": lambda outcome: float(outcome.curve.average_gap[-1]),
    "end_unregularised_gap": lambda outcome: float(outcome.curve.unregularised_gap[-1]),
    "end_average_unregularised_gap": lambda outcome: float(outcome.curve.average_unregularised_gap[-1]),
    "end_win_rate": lambda outcome: float(outcome.curve.win_rate[-1]),
    "step_size": lambda outcome: outcome.eta,
    "moved_share": lambda outcome: outcome.eta * outcome.match.games[0].beta,
    "rotation": lambda outcome: outcome.delay.rotation,
    "loop_seconds": lambda outcome: float(outcome.seconds[-1]),
    "wall_seconds": lambda outcome: outcome.wall_seconds,
}
"""What a run is reduced to: gaps and win rates of the policy, or of the mean of all policies, at the end."""


def summarise(outcomes: Outcomes, settings: Mapping[str, Setting]) -> dict[str, Any]:
    """Per objective, `FIGURES` as {mean, low, high, seeds}, and the delay rule beside the delays that occurred."""
    return {name: _objective(settings[name], found) for name, found in outcomes.items()}


def best_win_rate(outcome: Outcome) -> float:
    """The largest win rate over the reference that any policy can have, the mean over contexts."""
    return float(np.mean([game.win_rates(game.reference).max() for game in outcome.match.games]))


def half_gain(outcome: Outcome) -> float | None:
    """Versions until half of what can be gained in win rate over the reference was gained; none if it never was."""
    goal = (0.5 + best_win_rate(outcome)) / 2.0
    reached: FloatArray = outcome.versions[outcome.curve.win_rate >= goal]
    return float(reached[0]) if len(reached) else None


def _objective(setting: Setting, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    stable = [outcome.delay.largest_stable for outcome in outcomes]
    known = [delay for delay in stable if delay is not None]
    roles = dict.fromkeys(role for outcome in outcomes for role in outcome.staleness)
    return {
        "objective": setting.objective,
        "options": dict(setting.options),
        "pull": setting.pull,
        "updates": int(outcomes[0].updates[-1]),
        "versions": int(outcomes[0].versions[-1]),
        **{name: interval([figure(outcome) for outcome in outcomes]) for name, figure in FIGURES.items()},
        "versions_to_half_gain": [half_gain(outcome) for outcome in outcomes],
        "delay": {
            "method": method_of(setting),
            "largest_stable": min(known) if len(known) == len(stable) else None,
            "occurred": {role: _ages(role, outcomes) for role in roles},
        },
    }


def _ages(role: str, outcomes: Sequence[Outcome]) -> dict[str, float]:
    found = [outcome.staleness[role] for outcome in outcomes if role in outcome.staleness]
    return {"mean": float(np.mean([age["mean"] for age in found])), "max": max(age["max"] for age in found)}
