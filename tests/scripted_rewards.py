"""Rewards whose values are known by construction, and rewards that misbehave in one way each."""

import time
from collections.abc import Callable


def length(prompt: str, response: str) -> float:
    """Characters of the response."""
    return float(len(response))


def letters(prompt: str, response: str) -> float:
    """ASCII letters in the response: something that random bytes differ in."""
    return float(sum(letter.isascii() and letter.isalpha() for letter in response))


def slow_letters(prompt: str, response: str) -> float:
    """The reward of `letters`, after a while: so that a test can meet a run half-way."""
    time.sleep(0.15)
    return letters(prompt, response)


def exclamation(prompt: str, response: str) -> float:
    """Exclamation marks in the response."""
    return float(response.count("!"))


def times(factor: float) -> Callable[[str, str], float]:
    """`length` times a factor."""
    return lambda prompt, response: factor * len(response)


def constant(prompt: str, response: str) -> float:
    """The same for everything."""
    return 3.0


def raises_on_empty(prompt: str, response: str) -> float:
    """Fails on an empty response."""
    return 1.0 / len(response)


def no_number(prompt: str, response: str) -> float:
    """Returns what is no number."""
    return float("inf")
