"""What scoring remembers between groups: the scale of each member, and the weights of the objectives.

Scorers themselves remember nothing. The state travels with every group that is scored, changes once a round, and is
saved with the checkpoint of the version that it belongs to.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from actors.records import GroupSummary
from actors.scorers.base import ScorerError
from actors.scorers.config import Lagrangian, ScoringConfig
from algorithms.ensembles import Standardisation
from algorithms.preference import FloatArray
from algorithms.reward_weights import Multipliers


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringState:
    """Scale and multipliers, where the panel's rule needs them."""

    standardisation: Standardisation | None = None
    multipliers: Multipliers | None = None

    @classmethod
    def start(cls, config: ScoringConfig) -> "ScoringState":
        """Before anything was scored."""
        rule = config.combine
        return cls(multipliers=Multipliers.start(len(rule.thresholds)) if isinstance(rule, Lagrangian) else None)

    def dump(self) -> dict[str, Any]:
        """JSON that `read` understands."""
        scale, weights = self.standardisation, self.multipliers
        return {
            "standardisation": scale and {"mean": scale.mean.tolist(), "deviation": scale.deviation.tolist()},
            "multipliers": weights and {"values": weights.values.tolist(), "velocity": weights.velocity.tolist()},
        }

    @classmethod
    def read(cls, saved: dict[str, Any]) -> "ScoringState":
        """The inverse of `dump`."""
        scale, weights = saved["standardisation"], saved["multipliers"]
        return cls(
            standardisation=scale and Standardisation(**{name: np.array(values) for name, values in scale.items()}),
            multipliers=weights and Multipliers(**{name: np.array(values) for name, values in weights.items()}),
        )


class ScoringRounds:
    """The state of a run's scoring, and the figures of each of its rounds."""

    def __init__(self, config: ScoringConfig) -> None:
        self._config = config
        self._calibrated = asyncio.Event()
        self._take(ScoringState.start(config))

    @property
    def calibrated(self) -> bool:
        """Whether the members have their scale, or need none."""
        return self._calibrated.is_set()

    async def state(self) -> ScoringState:
        """What the next group is scored with, once the members have their scale; the deadline is the caller's."""
        await self._calibrated.wait()
        return self._state

    def snapshot(self) -> dict[str, Any]:
        """JSON that `resume` understands."""
        return self._state.dump()

    def resume(self, snapshot: dict[str, Any]) -> None:
        """Go on from a snapshot."""
        self._take(ScoringState.read(snapshot))

    def calibrate(self, rewards: FloatArray, members: Sequence[str]) -> None:
        """Take the members' scale from their rewards [n, M] for completions of the start.

        Raises: `ScorerError` where there are none, or where a member gives the same reward to all.
        """
        if not len(rewards):
            raise ScorerError("none of the start's answers could be scored, so the members have no common scale")
        try:
            scale = Standardisation.of(rewards)
        except ValueError as error:
            raise ScorerError(
                f"the members {', '.join(members)} can't be brought to one scale on the start's answers: {error}; "
                "leave it out, or set standardise: false in scoring.combine"
            ) from None
        self._take(replace(self._state, standardisation=scale))

    def trained(self, summaries: Sequence[GroupSummary]) -> dict[str, float]:
        """A round has ended with these groups: update the weights, and give the round's figures."""
        found = [summary.scoring for summary in summaries if summary.scoring]
        if not found:
            return {}
        returns = _means([figures.rewards for figures in found])
        self._update(list(returns.values()))
        return {
            "disagreement": float(np.mean([figures.disagreement for figures in found])),
            **{name: float(sum(getattr(f, field) for f in found)) for name, field in COUNTS.items()},
            **{f"reward/{name}": value for name, value in returns.items()},
            **{f"weight/{name}": value for name, value in _means([figures.weights for figures in found]).items()},
        }

    def _take(self, state: ScoringState) -> None:
        self._state = state
        if state.standardisation or not self._config.standardises:
            self._calibrated.set()

    def _update(self, returns: Sequence[float]) -> None:
        rule, multipliers = self._config.combine, self._state.multipliers
        if isinstance(rule, Lagrangian) and multipliers:
            after = multipliers.updated(returns, rule.thresholds, rule.squash, rule.learning_rate, rule.momentum)
            self._state = replace(self._state, multipliers=after)


COUNTS = {"judge_calls": "calls", "judge_calls_cached": "cached", "inputs_cut": "cut"}
"""Metric by field of `ScoringFigures`, summed over a round."""


def _means(named: Sequence[tuple[tuple[str, float], ...]]) -> dict[str, float]:
    """Mean of each name over groups that all name the same."""
    columns = [dict(values) for values in named]
    return {name: float(np.mean([values[name] for values in columns])) for name in columns[0]}
