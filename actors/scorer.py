"""Scoring plane: a pool of actors, each with a panel that turns the candidates of a group into one preference matrix.

A scorer remembers nothing between groups: scales and weights come with each of them (`actors.scorers.state`), so a
scorer that died is replaced without loss.
"""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.records import GroupSummary, from_arrow, summarise, to_arrow
from actors.scorers.base import Rejection, ScorerError, prompt_text
from actors.scorers.config import LanguageModelJudgeConfig, ModelScorerConfig, ScoringConfig
from actors.scorers.panel import NO_STATE, Panel
from actors.scorers.programmatic import Judge, load_judge
from actors.scorers.state import ScoringState

__all__ = [
    "Comparison",
    "Judge",
    "Panel",
    "Rejection",
    "Scorer",
    "ScorerError",
    "create_scorer",
    "load_judge",
    "prompt_text",
]


GOLD = "gold (held out)"
"""The gold scorers among the judges of a comparison."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Held-out completions of two policies, compared."""

    probability: float
    """Mean probability that the new policy's completion is preferred."""
    ties: float
    judges: dict[str, float]
    length: float
    """Mean length of the new policy's completions, in tokens."""
    prompt: str
    start: str
    final: str
    """The first pair of texts, for a reader."""
    gold: float | None = None
    """Mean probability by the gold scorers, where there are any."""


class Scorer:
    """One member of the pool: a panel in a Ray actor."""

    def __init__(self, name: str, config: ScoringConfig, directory: str | None = None) -> None:
        self.name = name
        self._config = config
        self._panel = Panel(config, directory)

    def __repr__(self) -> str:
        return f"Scorer({self.name})"

    def start(self) -> int:
        """Answers once the scorers are loaded; returns the process id. Idempotent."""
        self._panel.load()
        return os.getpid()

    @ray.method(num_returns=2)
    def score(
        self, batch: pa.RecordBatch, state: ScoringState = NO_STATE
    ) -> tuple[tuple[GroupSummary, str], pa.RecordBatch]:
        """The group of a one-row batch with its preference matrix; or a summary with the reason of its rejection."""
        group = from_arrow(batch)[0]
        try:
            scored = self._panel.judged(group.messages, group.candidates, state)
        except Rejection as rejection:
            return (summarise(group, rejection.name), str(rejection)), batch
        labels = self._panel.labels(scored.preference, group.id)
        judged = group.scored(labels, self.name, scored.rewards, scored.figures.disagreement)
        return (summarise(judged, scoring=scored.figures), ""), to_arrow([judged])

    def rewards(self, batch: pa.RecordBatch) -> tuple[tuple[str, ...], NDArray[np.float64]]:
        """Names of the members, and their rewards [K, M] for the candidates of a one-row batch; none if rejected."""
        group = from_arrow(batch)[0]
        try:
            found = self._panel.rewards(group.messages, [candidate.text for candidate in group.candidates])
        except Rejection:
            found = None
        return self._panel.names, np.empty((0, len(self._panel.names))) if found is None else found

    def compare(self, start: pa.RecordBatch, current: pa.RecordBatch, state: ScoringState = NO_STATE) -> Comparison:
        """Completions of the current policy against those of the start, sample by sample."""
        old, new = from_arrow(start)[0], from_arrow(current)[0]
        pairs = list(zip(new.candidates, old.candidates, strict=True))
        scored = [self._panel.judged(new.messages, pair, state) for pair in pairs]
        outcomes = np.array([pair.preference[0, 1] for pair in scored])
        judges = {name: float(np.mean([pair.members[name][0, 1] for pair in scored])) for name in self._panel.names}
        gold = None
        if self._panel.gold:
            gold = float(np.mean([self._panel.gold.matrix(new.messages, pair)[0, 1] for pair in pairs]))
            judges[GOLD] = gold
        return Comparison(
            probability=float(outcomes.mean()),
            ties=float((outcomes == 0.5).mean()),
            judges=judges,
            length=float(np.mean([len(candidate.token_ids) for candidate in new.candidates])),
            prompt=prompt_text(new),
            start=old.candidates[0].text,
            final=new.candidates[0].text,
            gold=gold,
        )


def create_scorer(name: str, config: ScoringConfig, directory: str | None = None) -> Any:
    """A scorer's actor; one that calls an endpoint has to be on the node that holds `directory`, to count its calls."""
    options: dict[str, Any] = {"num_cpus": config.cpus, "num_gpus": config.gpus}
    entries = (*config.panel, *config.gold)
    judges = [entry for entry in entries if isinstance(entry, LanguageModelJudgeConfig)]
    if any(judge.endpoint for judge in judges):
        node = ray.get_runtime_context().get_node_id()
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node, soft=False)
    if any(judge.engine for judge in judges):
        # Here, because a scorer of functions alone has no need of torch.
        from actors.rollout import vllm_environment

        options["runtime_env"] = {"env_vars": vllm_environment(0 if config.gpus else config.threads)}
    elif any(isinstance(entry, ModelScorerConfig) for entry in entries):
        options["runtime_env"] = {"env_vars": {"OMP_NUM_THREADS": str(config.threads)}}
    return ray.remote(Scorer).options(**options).remote(name, config, directory)
