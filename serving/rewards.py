"""Two objectives that a program can measure, for a service without a reward model: how warm and how long an answer is.

Both lie in [0, 1], so that a preference over them weighs like against like. `along` is for a run that learns to follow
directions: it scores along the one that the prompt tells.
"""

import re
from functools import lru_cache
from typing import Any

from actors.scorers.config import RewardConfig
from actors.scorers.programmatic import Reward, load_reward

WORDS = 80
"""An answer of so many words is as verbose as there is."""


def warmth(prompt: str, answer: str) -> float:
    """Mean over sentences of VADER's compound score (Hutto and Gilbert, ICWSM 2014), from [-1, 1] to [0, 1].

    A mean, so that more sentences as warm as these are no warmer.
    """
    sentences = [sentence for sentence in re.split(r"(?<=[.!?])\s+|\n+", answer) if sentence.strip()]
    scores = [_vader().polarity_scores(sentence)["compound"] for sentence in sentences]
    return float(0.5 + 0.5 * sum(scores) / max(len(scores), 1))


def verbosity(prompt: str, answer: str) -> float:
    """Words as a share of 80, at most 1."""
    return min(len(answer.split()) / WORDS, 1.0)


def along(**objectives: str) -> Reward:
    """The reward along the direction that a prompt of `python -m serving.told` tells: the sum of weight times reward.

    `objectives`: names that the prompt tells, each with its reward as `module:function`.
    """
    rewards = {name: load_reward(RewardConfig(reward=function)) for name, function in objectives.items()}

    def reward(prompt: str, answer: str) -> float:
        # The direction is told before the question, which may have stars and numbers of its own.
        found = reversed(re.findall(r"(\w+)\*(-?\d+)", prompt))
        weights = {name: int(percent) / 100 for name, percent in found}
        if missing := rewards.keys() - weights:
            raise ValueError(f"the prompt tells no direction over {sorted(missing)}: {prompt[:80]!r}")
        return sum(weights[name] * rewards[name](prompt, answer) for name in rewards)

    return reward


@lru_cache(maxsize=1)
def _vader() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()
