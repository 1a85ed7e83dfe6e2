"""Judges of the benchmarks. They need nothing but `vaderSentiment`, so that TRL's environment can import them."""

from functools import lru_cache
from typing import Any

from workflows import judges as demo

COST_OF_A_WORD = 0.02


def sentiment_minus_length(prompt: str, first: str, second: str) -> float:
    """Prefers the greater VADER compound score minus 0.02 a word."""
    return _verdict(_sentiment_minus_length(first), _sentiment_minus_length(second))


def demo_panel(prompt: str, first: str, second: str) -> float:
    """The majority of the demo's three judges."""
    votes = [judge(prompt, first, second) for judge in (demo.warmth, demo.brevity, demo.concreteness)]
    wins, losses = sum(vote > 0.5 for vote in votes), sum(vote < 0.5 for vote in votes)
    return _verdict(wins, losses)


def more_vowels(prompt: str, first: str, second: str) -> float:
    """Prefers the text with more vowels: costs nothing, seldom ties, and random texts differ in it."""
    return _verdict(_vowels(first), _vowels(second))


def _verdict(value: float, other: float) -> float:
    return 0.5 if value == other else float(value > other)


def _vowels(text: str) -> int:
    return sum(letter in "aeiou" for letter in text.lower())


@lru_cache(maxsize=4096)
def _sentiment_minus_length(text: str) -> float:
    return float(_vader().polarity_scores(text)["compound"]) - COST_OF_A_WORD * len(text.split())


@lru_cache(maxsize=1)
def _vader() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()
