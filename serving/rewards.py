"""Two objectives that a program can measure, for a service without a reward model: how warm and how long an answer is.

Both lie in [0, 1], so that a preference over them weighs like against like.
"""

import re
from functools import lru_cache
from typing import Any

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


@lru_cache(maxsize=1)
def _vader() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()
