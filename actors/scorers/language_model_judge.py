"""A language model as a judge of pairs, at an endpoint or in an engine of the scorer's own.

Each pair is asked in both orders and averaged, so that a preference for a place cancels. A probability comes from the
log-probabilities of the label tokens where they are given, otherwise from the label that was written. A source that
fails, or an answer without a verdict, rejects the group with the reason. What was asked before, in this run or
another, is read from the cache and costs nothing.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from actors.endpoint import EndpointError, read_key
from actors.models import cache_folder
from actors.preference_inputs import conversation_text
from actors.scorers.base import Messages, Plan, Rejection, ScorerError, Verdict
from actors.scorers.config import LanguageModelJudgeConfig
from actors.scorers.judge_answers import Labels, probability_of
from actors.scorers.judge_sources import ROLE, EndpointSource, EngineSource, JudgeSource, allowed_tokens
from actors.scorers.templates import read_template
from actors.scorers.verdict_cache import VerdictCache, content_key
from algorithms.comparisons import Pair
from algorithms.preference import FloatArray

FIELDS = ("prompt", "first", "second")
SHOWN = 120
"""Characters of an answer without a verdict that the rejection quotes."""


class LanguageModelJudge:
    """One model; `directory` keeps count of the calls to its endpoint."""

    pointwise = False

    def __init__(self, name: str, config: LanguageModelJudgeConfig, plan: Plan, directory: str | None) -> None:
        """Raises: `ScorerError` for its template, key or labels, `ModelError` for its fields or an engine's model."""
        self.members: tuple[str, ...] = (name,)
        self._config, self._plan, self._directory = config, plan, directory
        self._labels = Labels(first=config.labels[0], second=config.labels[1], tie=config.tie)
        self._template = read_template(config.template, FIELDS)
        self._calls = self._cached = 0
        try:
            read_key(config.key_variable, ROLE)
        except EndpointError as error:
            raise ScorerError(str(error)) from None
        if config.engine:
            allowed_tokens(config)

    def load(self) -> None:
        """Open the cache and the connections, or start the engine."""
        _ = self._cache, self._source

    def probe(self) -> None:
        """Compare two words at an endpoint, so that a person learns at once of one that fails.

        Raises: `ScorerError`, also for an answer without a verdict, or when the run's calls are used up.
        """
        if self._config.endpoint:
            try:
                self._compared("Say yes.", ("Yes.", "No."), [(0, 1)])
            except Rejection as failure:
                raise ScorerError(str(failure)) from None

    def verdict(self, messages: Messages, responses: Sequence[str], seed: int) -> Verdict:
        """See `PreferenceScorer`."""
        calls, cached = self._calls, self._cached
        prompt = conversation_text(messages)
        found = self._plan(len(responses), lambda pairs: self._compared(prompt, responses, pairs), seed)
        return Verdict(matrices=found.matrix[None], calls=self._calls - calls, cached=self._cached - cached)

    def _compared(self, prompt: str, responses: Sequence[str], pairs: Sequence[Pair]) -> FloatArray:
        """P(first preferred) of each pair, [P], over both orders; equal texts tie unasked."""

        def question(i: int, j: int) -> str:
            return self._template.format(prompt=prompt, first=responses[i], second=responses[j])

        asked = {(i, j): question(i, j) for a, b in pairs for i, j in ((a, b), (b, a)) if responses[i] != responses[j]}
        known = self._answered(list(dict.fromkeys(asked.values())))
        both = [(known[asked[i, j]], known[asked[j, i]]) if (i, j) in asked else (0.5, 0.5) for i, j in pairs]
        return np.array([(forward + 1.0 - backward) / 2.0 for forward, backward in both])

    def _answered(self, questions: Sequence[str]) -> dict[str, float]:
        """P(response shown first is preferred) of each question."""
        identity = [self._source.identity, self._labels.all]
        keys = {question: content_key(identity, question) for question in questions}
        known = {question: p for question, key in keys.items() if (p := self._cache.get(key)) is not None}
        self._calls += len(questions)
        self._cached += len(known)

        def take(question: str, choice: dict[str, Any]) -> None:
            known[question] = self._probability(choice)
            # At once: the others may fail, and this one has been paid for.
            self._cache.put(keys[question], known[question])

        if missing := [question for question in questions if question not in known]:
            self._source.answer(missing, take)
        return known

    def _probability(self, choice: dict[str, Any]) -> float:
        probability = probability_of(choice, self._labels)
        if probability is None:
            said = " ".join(choice["message"]["content"].split())[:SHOWN]
            raise Rejection(
                f"{ROLE}_nonsense", f"judge {self.members[0]} gave none of its labels as a verdict: {said!r}"
            )
        return probability

    @cached_property
    def _cache(self) -> VerdictCache:
        return VerdictCache(Path(self._config.cache) if self._config.cache else cache_folder() / "verdicts.sqlite")

    @cached_property
    def _source(self) -> JudgeSource:
        return EngineSource(self._config) if self._config.engine else EndpointSource(self._config, self._directory)
