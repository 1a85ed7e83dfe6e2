"""Scorers behind the service: reward vectors of answers, and who is preferred to whom.

A reward that raises or is not a finite number is a failure with its reason; it never becomes a neutral score.
"""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np

from actors.scorer import ScorerError, load_judge
from algorithms.preference import InvalidPreference, antisymmetric
from serving.prompts import Messages, prompt_of

Reward = Callable[[str, str], float]
"""`reward(prompt, answer)`."""
Rewards = tuple[list[dict[str, float] | None], list[str | None]]
"""For each answer its reward by objective; or none, and what is wrong."""
Comparisons = tuple[list[list[float]], str | None]
"""Win probabilities [K][K]; or none, and what is wrong."""


class Scorers:
    """One replica of the scorers; each call runs in a thread, so that slow scorers do not hold up the others."""

    def __init__(self, scorers: Mapping[str, str], judge: str | None) -> None:
        """Raises: `ScorerError` that says which scorer can't be loaded."""
        self._rewards = {name: cast(Reward, load_judge(entry)) for name, entry in scorers.items() if ":" in entry}
        self._models = _load_models({name: entry for name, entry in scorers.items() if ":" not in entry})
        self._objectives = tuple(scorers)
        self._judge = load_judge(judge) if judge else None

    async def rewards(self, messages: Messages, answers: list[str]) -> Rewards:
        """Reward vectors of answers to one conversation."""
        return await asyncio.to_thread(self._rewards_of, messages, answers)

    async def compare(self, messages: Messages, answers: list[str]) -> Comparisons:
        """Who of the answers to one conversation is preferred to whom."""
        return await asyncio.to_thread(self._matrix, messages, answers)

    def _rewards_of(self, messages: Messages, answers: Sequence[str]) -> Rewards:
        columns: dict[str, list[float | str]] = {}
        for name, reward in self._rewards.items():
            columns[name] = [_asked(reward, prompt_of(messages), answer) for answer in answers]
        for model, heads in self._models:
            columns |= _model_columns(model, heads, messages, answers)
        rows = [{name: columns[name][place] for name in self._objectives} for place in range(len(answers))]
        problems = [_problem(row) for row in rows]
        scored = [None if problem else cast(dict[str, float], row) for row, problem in zip(rows, problems, strict=True)]
        return scored, problems

    def _matrix(self, messages: Messages, answers: Sequence[str]) -> Comparisons:
        assert self._judge is not None, "the ingress refuses a comparison without a judge"
        prompt, raw = prompt_of(messages), np.full((len(answers), len(answers)), 0.5)
        try:
            for i, first in enumerate(answers):
                for j, second in enumerate(answers):
                    if i != j:
                        raw[i, j] = self._judge(prompt, first, second)
            return antisymmetric(raw).tolist(), None
        except InvalidPreference as error:
            return [], f"the judge contradicts itself: {error}"
        except Exception as error:
            return [], f"the judge raised {type(error).__name__}"


def _asked(reward: Reward, prompt: str, answer: str) -> float | str:
    try:
        value = float(reward(prompt, answer))
    except Exception as error:
        # Its message may quote the prompt.
        return f"raised {type(error).__name__}"
    return value if math.isfinite(value) else f"returned {value}"


def _problem(row: Mapping[str, float | str]) -> str | None:
    wrong = [f"{name} {value}" for name, value in row.items() if isinstance(value, str)]
    return "; ".join(wrong) or None


def _load_models(entries: Mapping[str, str]) -> list[tuple[Any, dict[str, int]]]:
    """Reward models, each loaded once, with the heads that score an objective."""
    folders: dict[str, dict[str, str]] = {}
    for name, entry in entries.items():
        folder, _, head = entry.partition("#")
        folders.setdefault(folder, {})[name] = head
    return [_load_model(folder, heads) for folder, heads in folders.items()]


def _load_model(folder: str, heads: Mapping[str, str]) -> tuple[Any, dict[str, int]]:
    from actors.reward_models import RewardModel, load_preference_model

    try:
        model = load_preference_model(folder)
    except Exception as error:
        raise ScorerError(f"scorer {folder!r} is neither module:function nor a reward model: {error}") from error
    if not isinstance(model, RewardModel):
        raise ScorerError(f"scorer {folder!r} compares pairs; an objective needs a reward model, give it as the judge")
    places = {}
    for name, head in heads.items():
        if head not in model.heads and not (head == "" and len(model.heads) == 1):
            raise ScorerError(f"scorer {name}={folder}#{head}: it has the heads {', '.join(model.heads)}")
        places[name] = model.heads.index(head) if head else 0
    return model, places


def _model_columns(
    model: Any, heads: Mapping[str, int], messages: Messages, answers: Sequence[str]
) -> dict[str, list[float | str]]:
    try:
        scores = model.scores(messages, answers)
    except Exception as error:
        return {name: [f"raised {type(error).__name__}"] * len(answers) for name in heads}
    return {
        name: [value if math.isfinite(value) else f"returned {value}" for value in scores[:, place].tolist()]
        for name, place in heads.items()
    }
