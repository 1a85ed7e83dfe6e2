"""Scoring plane: pairwise judges turn the candidates of a group into one preference matrix.

The matrix is antisymmetric around 1/2, exactly. A judge that raises, returns no probability or contradicts itself
rejects the group, with the reason; it never becomes a neutral score.
"""

import importlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray

from actors.config import JudgeConfig, ScoringConfig
from actors.records import Candidate, Group, GroupSummary, derive_seed, from_arrow, summarise, to_arrow
from algorithms.preference import (
    InvalidPreference,
    antisymmetric,
    majority,
    penalise_truncated,
    sampled_labels,
    with_flips,
)

Judge = Callable[[str, str, str], float]
"""`judge(prompt, first, second)`: the probability that `first` is preferred."""


class ScorerError(ValueError):
    """A judge that can't be imported or called."""


class Rejection(Exception):
    """A group can't be scored; the message is the reason, the name what is counted."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


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


def load_judge(entry: str | JudgeConfig) -> Judge:
    """The judge of a panel's entry: the function behind `module:function`, or what it returns for its options.

    Raises: `ScorerError` that says which part was not found, or how the options were refused.
    """
    if isinstance(entry, str):
        return _function(entry)
    try:
        judge = _function(entry.judge)(**entry.options)
    except ScorerError:
        raise
    except Exception as error:
        raise ScorerError(
            f"scorer {entry.judge!r} with options {entry.options} failed: {type(error).__name__}: {error}"
        ) from error
    if not callable(judge):
        raise ScorerError(
            f"scorer {entry.judge!r} with options {entry.options} returned {type(judge).__name__}, not a judge; "
            "a judge that takes no options is named without them"
        )
    return cast(Judge, judge)


def _function(name: str) -> Callable[..., Any]:
    module_name, _, function_name = name.partition(":")
    if not function_name:
        raise ScorerError(f"scorer {name!r} is not of the form module:function")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ScorerError(
            f"scorer {name!r}: importing {module_name} failed: {type(error).__name__}: {error}"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        own = [value for value in vars(module).values() if getattr(value, "__module__", None) == module_name]
        functions = [value.__name__ for value in own if callable(value) and not value.__name__.startswith("_")]
        raise ScorerError(f"scorer {name!r}: {module_name} has no function {function_name!r}; it has {functions[:12]}")
    return cast(Callable[..., Any], function)


def prompt_text(group: Group) -> str:
    """What judges read as the prompt: the last user message."""
    users = [message["content"] for message in group.messages if message["role"] == "user"]
    return users[-1] if users else group.messages[-1]["content"]


class Panel:
    """Judges whose majority decides each pair; with one judge its own probabilities are kept."""

    def __init__(self, config: ScoringConfig) -> None:
        self._judges = {
            label: load_judge(entry) for label, entry in zip(_labels(config.panel), config.panel, strict=True)
        }
        self._config = config

    def members(self, prompt: str, texts: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """Each judge's [K, K] matrix.

        Raises: `Rejection` naming the judge and what it did.
        """
        return {name: self._matrix(name, judge, prompt, texts) for name, judge in self._judges.items()}

    def matrix(self, prompt: str, candidates: Sequence[Candidate]) -> NDArray[np.float64]:
        """The panel's [K, K] matrix, with the penalty on truncated candidates."""
        members = list(self.members(prompt, [candidate.text for candidate in candidates]).values())
        verdict = members[0] if len(members) == 1 else majority(np.stack(members))
        truncated = np.array([candidate.truncated for candidate in candidates])
        return penalise_truncated(verdict, truncated, self._config.truncation_penalty)

    def labels(self, group: Group) -> NDArray[np.float64]:
        """What the learner is told of the group, [K, K]: the panel's matrix, with its noise.

        Drawn labels follow from the group's id, so that a group which is scored again gets the same ones.
        """
        noisy = with_flips(self.matrix(prompt_text(group), group.candidates), self._config.flip_rate)
        if self._config.labels == "probability":
            return noisy
        return sampled_labels(noisy, derive_seed(group.id, "labels"))

    def _matrix(self, name: str, judge: Judge, prompt: str, texts: Sequence[str]) -> NDArray[np.float64]:
        raw = np.full((len(texts), len(texts)), 0.5)
        for i, first in enumerate(texts):
            for j, second in enumerate(texts):
                if i != j:
                    raw[i, j] = _ask(name, judge, prompt, first, second)
        try:
            return antisymmetric(raw)
        except InvalidPreference as error:
            raise Rejection("invalid_preference", f"judge {name}: {error}") from error


def _labels(panel: Sequence[str | JudgeConfig]) -> Sequence[str]:
    """Short names of judges; the whole entries where two functions are called the same."""
    whole = [entry if isinstance(entry, str) else f"{entry.judge} {entry.options}" for entry in panel]
    if len(set(whole)) < len(whole):
        raise ScorerError(f"scoring.panel = {whole} names a judge twice; each has one vote")
    short = [(entry if isinstance(entry, str) else entry.judge).partition(":")[2] for entry in panel]
    return short if len(set(short)) == len(short) else whole


def _ask(name: str, judge: Judge, prompt: str, first: str, second: str) -> float:
    try:
        return float(judge(prompt, first, second))
    except Exception as error:
        raise Rejection("scorer_error", f"judge {name} raised {type(error).__name__}: {error}") from error


class Scorer:
    """One member of the pool: a panel in a Ray actor."""

    def __init__(self, name: str, config: ScoringConfig) -> None:
        self.name = name
        self._panel = Panel(config)

    def __repr__(self) -> str:
        return f"Scorer({self.name})"

    def start(self) -> int:
        """Answers once the judges are loaded; returns the process id."""
        return os.getpid()

    @ray.method(num_returns=2)
    def score(self, batch: pa.RecordBatch) -> tuple[tuple[GroupSummary, str], pa.RecordBatch]:
        """The group of a one-row batch with its preference matrix; or a summary with the reason of its rejection."""
        group = from_arrow(batch)[0]
        try:
            labels = self._panel.labels(group)
        except Rejection as rejection:
            return (summarise(group, rejection.name), str(rejection)), batch
        return (summarise(group), ""), to_arrow([group.scored(labels, self.name)])

    def compare(self, start: pa.RecordBatch, current: pa.RecordBatch) -> Comparison:
        """Completions of the current policy against those of the start, sample by sample."""
        old, new = from_arrow(start)[0], from_arrow(current)[0]
        prompt = prompt_text(new)
        pairs = list(zip(new.candidates, old.candidates, strict=True))
        outcomes = np.array([self._panel.matrix(prompt, pair)[0, 1] for pair in pairs])
        members = [self._panel.members(prompt, [a.text, b.text]) for a, b in pairs]
        return Comparison(
            probability=float(outcomes.mean()),
            ties=float((outcomes == 0.5).mean()),
            judges={name: float(np.mean([m[name][0, 1] for m in members])) for name in members[0]},
            length=float(np.mean([len(candidate.token_ids) for candidate in new.candidates])),
            prompt=prompt,
            start=old.candidates[0].text,
            final=new.candidates[0].text,
        )
