"""The panel: scorers of any kinds, asked one after the other, and the one matrix that their verdicts make.

The matrix is antisymmetric around 1/2, exactly. A scorer that fails rejects the group, with the reason; it never
becomes a neutral score.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actors.records import Candidate, ScoringFigures, derive_seed
from actors.scorers.base import Messages, PreferenceScorer, ScorerError, Verdict, last_question
from actors.scorers.combination import check_members, combined
from actors.scorers.config import (
    SCORERS,
    JudgeConfig,
    LanguageModelJudgeConfig,
    ModelScorerConfig,
    RewardConfig,
    ScorerConfig,
    ScoringConfig,
    scorer_name,
)
from actors.scorers.language_model_judge import LanguageModelJudge
from actors.scorers.models import ModelScorer
from actors.scorers.programmatic import JudgeScorer, RewardScorer, load_judge, load_reward
from actors.scorers.state import ScoringState
from algorithms.comparisons import Ask, Comparisons, compare
from algorithms.ensembles import disagreement
from algorithms.preference import FloatArray, penalise_truncated, sampled_labels, with_flips

NO_STATE = ScoringState()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scored:
    """A panel's verdict on K candidates: its [K, K] matrix, each member's, the rewards [K, M], and figures."""

    preference: FloatArray
    members: dict[str, FloatArray]
    rewards: FloatArray | None
    figures: ScoringFigures


class Panel:
    """Scorers and the rule that combines them.

    `directory` is where calls to endpoints are counted; without one they are counted from 0.
    """

    def __init__(self, config: ScoringConfig, directory: str | None = None) -> None:
        """Check everything that can be checked without reading weights or asking an endpoint.

        Raises: `ScorerError`, or `ModelError` for a model that is missing or scores nothing.
        """
        self._config = config
        names = _labels(config.panel)
        self._scorers = [_scorer(n, e, config, directory) for n, e in zip(names, config.panel, strict=True)]
        self.names = tuple(name for scorer in self._scorers for name in scorer.members)
        """Of all members, in their order."""
        self._rewarding = tuple(name for s in self._scorers if s.pointwise for name in s.members)
        check_members(config.combine, self.names, self._rewarding)
        self.gold = Panel(config.held_out, directory) if config.held_out else None
        """The panel that judges evaluations beside this one, and nothing that is trained on."""

    def load(self) -> None:
        """Read weights and open connections, so that the first group does not wait for them."""
        for scorer in self._scorers:
            scorer.load()
        if self.gold:
            self.gold.load()

    def probe(self) -> None:
        """Ask every judge at an endpoint one easy question; see `LanguageModelJudge.probe`."""
        for scorer in self._scorers:
            if isinstance(scorer, LanguageModelJudge):
                scorer.probe()
        if self.gold:
            self.gold.probe()

    def judged(self, prompt: str | Messages, candidates: Sequence[Candidate], state: ScoringState = NO_STATE) -> Scored:
        """The panel's verdict on candidates for a prompt or a conversation, with the penalty on truncated ones.

        Raises: `Rejection` naming the scorer and what it did; `ScorerError` when the state lacks what the rule needs.
        """
        verdicts = self._verdicts(prompt, [candidate.text for candidate in candidates])
        matrices, rewards = _stacked(verdicts)
        found = combined(self._config.combine, matrices, rewards, state)
        truncated = np.array([candidate.truncated for candidate in candidates])
        return Scored(
            preference=penalise_truncated(found.preference, truncated, self._config.truncation_penalty),
            members=dict(zip(self.names, found.members, strict=True)),
            rewards=rewards,
            figures=ScoringFigures(
                disagreement=disagreement(found.members),
                rewards=() if rewards is None else _named(self._rewarding, rewards.mean(axis=0)),
                weights=() if found.weights is None else _named(self.names, found.weights),
                calls=sum(verdict.calls for verdict in verdicts),
                cached=sum(verdict.cached for verdict in verdicts),
                cut=sum(verdict.cut for verdict in verdicts),
            ),
        )

    def matrix(
        self, prompt: str | Messages, candidates: Sequence[Candidate], state: ScoringState = NO_STATE
    ) -> FloatArray:
        """The panel's [K, K] matrix; see `judged`."""
        return self.judged(prompt, candidates, state).preference

    def rewards(self, prompt: str | Messages, responses: Sequence[str]) -> FloatArray | None:
        """The members' rewards in their own units, [K, M], none where only pairs are judged; see `judged`."""
        return _stacked(self._verdicts(prompt, responses))[1]

    def labels(self, preference: FloatArray, group_id: str) -> FloatArray:
        """What the learner is told of a group with this matrix, [K, K]: the matrix with its noise.

        Drawn labels follow from the group's id, so that a group which is scored again gets the same ones.
        """
        noisy = with_flips(preference, self._config.flip_rate)
        if self._config.labels == "probability":
            return noisy
        return sampled_labels(noisy, derive_seed(group_id, "labels"))

    def _verdicts(self, prompt: str | Messages, responses: Sequence[str]) -> list[Verdict]:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        seed = derive_seed("pairs", last_question(messages), *responses)
        return [scorer.verdict(messages, responses, seed) for scorer in self._scorers]


def _stacked(verdicts: Sequence[Verdict]) -> tuple[FloatArray, FloatArray | None]:
    """Matrices [M, K, K] of all members, and the rewards [K, M] of those that give one."""
    columns = [verdict.rewards for verdict in verdicts if verdict.rewards is not None]
    matrices = np.concatenate([verdict.matrices for verdict in verdicts])
    return matrices, np.concatenate(columns, axis=1) if columns else None


def _named(names: Sequence[str], values: FloatArray) -> tuple[tuple[str, float], ...]:
    return tuple(zip(names, values.tolist(), strict=True))


def _scorer(name: str, entry: ScorerConfig, config: ScoringConfig, directory: str | None) -> PreferenceScorer:
    def plan(count: int, ask: Ask, seed: int) -> Comparisons:
        return compare(count, config.pairs, ask, seed, config.degree)

    match entry:
        case str() | JudgeConfig():
            return JudgeScorer(name, load_judge(entry), plan)
        case RewardConfig():
            return RewardScorer(name, load_reward(entry))
        case ModelScorerConfig():
            return ModelScorer(name, entry)
        case LanguageModelJudgeConfig():
            return LanguageModelJudge(name, entry, plan, directory)


def _labels(panel: Sequence[ScorerConfig]) -> Sequence[str]:
    """Short names of scorers; the whole entries where two are called the same."""
    whole = [_described(entry) for entry in panel]
    if len(set(whole)) < len(whole):
        raise ScorerError(f"scoring.panel = {whole} names a scorer twice; each has one vote")
    short = [_short(entry) for entry in panel]
    return short if len(set(short)) == len(short) else whole


def _described(entry: ScorerConfig) -> str:
    if isinstance(entry, str):
        return entry
    options = {key: value for key, value in entry.model_dump(exclude_defaults=True).items() if key not in SCORERS}
    return f"{scorer_name(entry)} {options}" if options or isinstance(entry, JudgeConfig) else scorer_name(entry)


def _short(entry: ScorerConfig) -> str:
    match entry:
        case ModelScorerConfig(model=folder):
            return Path(folder).name
        case LanguageModelJudgeConfig(llm_judge=model):
            return model
    return scorer_name(entry).partition(":")[2]
