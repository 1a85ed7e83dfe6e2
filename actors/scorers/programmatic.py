"""Judges and rewards that are Python functions.

A function that raises, returns no number or contradicts itself rejects the group, with the reason; it never becomes
a neutral score.
"""

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np

from actors.scorers.base import Messages, Plan, Rejection, ScorerError, Verdict, last_question
from actors.scorers.config import JudgeConfig, RewardConfig
from algorithms.comparisons import Pair
from algorithms.ensembles import bradley_terry
from algorithms.preference import FloatArray, InvalidPreference, antisymmetric

Judge = Callable[[str, str, str], float]
"""`judge(prompt, first, second)`: the probability that `first` is preferred."""

Reward = Callable[[str, str], float]
"""`reward(prompt, response)`: higher is better; differences are log-odds where pairs are compared."""


class JudgeScorer:
    """A pairwise function. It is asked both ways, and may not contradict itself."""

    pointwise = False

    def __init__(self, name: str, judge: Judge, plan: Plan) -> None:
        self.members: tuple[str, ...] = (name,)
        self._judge, self._plan = judge, plan

    def load(self) -> None:
        """Nothing to do."""

    def verdict(self, messages: Messages, responses: Sequence[str], seed: int) -> Verdict:
        """See `PreferenceScorer`."""
        prompt = last_question(messages)

        def ask(pairs: Sequence[Pair]) -> FloatArray:
            raw = np.full((len(responses), len(responses)), 0.5)
            for i, j in pairs:
                for first, second in ((i, j), (j, i)):
                    raw[first, second] = self._ask(prompt, responses[first], responses[second])
            matrix = antisymmetric(raw)
            return np.array([matrix[pair] for pair in pairs])

        try:
            found = self._plan(len(responses), ask, seed)
        except InvalidPreference as error:
            raise Rejection("invalid_preference", f"judge {self.members[0]}: {error}") from error
        return Verdict(matrices=found.matrix[None], calls=2 * len(found.pairs))

    def _ask(self, prompt: str, first: str, second: str) -> float:
        try:
            return float(self._judge(prompt, first, second))
        except Exception as error:
            raise Rejection(
                "scorer_error", f"judge {self.members[0]} raised {type(error).__name__}: {error}"
            ) from error


class RewardScorer:
    """A pointwise function; pairs are compared by Bradley-Terry."""

    pointwise = True

    def __init__(self, name: str, reward: Reward) -> None:
        self.members: tuple[str, ...] = (name,)
        self._reward = reward

    def load(self) -> None:
        """Nothing to do."""

    def verdict(self, messages: Messages, responses: Sequence[str], seed: int) -> Verdict:
        """See `PreferenceScorer`."""
        prompt = last_question(messages)
        rewards = np.array([self._rewarded(prompt, response) for response in responses])
        return Verdict(matrices=bradley_terry(rewards)[None], rewards=rewards[:, None])

    def _rewarded(self, prompt: str, response: str) -> float:
        try:
            reward = float(self._reward(prompt, response))
        except Exception as error:
            raise Rejection(
                "scorer_error", f"reward {self.members[0]} raised {type(error).__name__}: {error}"
            ) from error
        if not math.isfinite(reward):
            raise Rejection("invalid_reward", f"reward {self.members[0]} is {reward}, which is no number")
        return reward


def load_judge(entry: str | JudgeConfig) -> Judge:
    """The judge of a panel's entry: the function behind `module:function`, or what it returns for its options.

    Raises: `ScorerError` that says which part was not found, or how the options were refused.
    """
    if isinstance(entry, str):
        return _function(entry)
    return cast(Judge, _built(entry.judge, entry.options, "a judge"))


def load_reward(entry: RewardConfig) -> Reward:
    """The reward of a panel's entry; see `load_judge`."""
    if entry.options is None:
        return _function(entry.reward)
    return cast(Reward, _built(entry.reward, entry.options, "a reward"))


def _built(name: str, options: Mapping[str, Any], what: str) -> Callable[..., Any]:
    try:
        built = _function(name)(**options)
    except ScorerError:
        raise
    except Exception as error:
        raise ScorerError(
            f"scorer {name!r} with options {dict(options)} failed: {type(error).__name__}: {error}"
        ) from error
    if not callable(built):
        raise ScorerError(
            f"scorer {name!r} with options {dict(options)} returned {type(built).__name__}, not {what}; "
            f"{what} that takes no options is named without them"
        )
    return cast(Callable[..., Any], built)


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
