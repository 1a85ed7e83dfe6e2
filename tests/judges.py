"""Judges for tests: simple, exact, and some that misbehave on purpose."""

import math
import os
import signal
import time
from pathlib import Path


def ascii_share(prompt: str, first: str, second: str) -> float:
    """Prefers the text with more ASCII letters: something that random bytes differ in and a tiny model can learn."""
    a, b = _letters(first), _letters(second)
    return 0.5 if a == b else float(a > b)


def slow_ascii_share(prompt: str, first: str, second: str) -> float:
    """The verdict of `ascii_share`, after a while: so that a test can meet a run half-way."""
    time.sleep(0.05)
    return ascii_share(prompt, first, second)


def mortal_ascii_share(prompt: str, first: str, second: str) -> float:
    """`slow_ascii_share`, which a prompt `die FILE` kills in the middle of its work, once: the file remembers it."""
    fault, _, memory = prompt.partition(" ")
    if fault == "die" and not Path(memory).exists():
        Path(memory).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return slow_ascii_share(prompt, first, second)


def misbehaving(prompt: str, first: str, second: str) -> float:
    """`ascii_share`, but for prompts that begin with the name of a fault."""
    fault = prompt.partition(" ")[0]
    if fault == "hang":
        time.sleep(3600)
    if fault == "raise":
        raise ValueError("this judge refuses")
    if fault == "nan":
        return math.nan
    if fault == "contradict":
        return 0.9
    return ascii_share(prompt, first, second)


def _letters(text: str) -> int:
    return sum(letter.isascii() and letter.isalpha() for letter in text)
