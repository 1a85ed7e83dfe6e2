"""Rewards and a judge of the tests: what they return can be worked out by hand."""


def warmth(prompt: str, answer: str) -> float:
    """Share of vowels; it fails on answers that hold a percent sign."""
    if "%" in answer:
        raise RuntimeError(f"can't read {answer}")
    return sum(letter in "aeiouAEIOU" for letter in answer) / max(len(answer), 1)


def length(prompt: str, answer: str) -> float:
    """Characters, as a share of 100."""
    return len(answer) / 100


def longer(prompt: str, first: str, second: str) -> float:
    """The longer answer is preferred."""
    return 0.5 if len(first) == len(second) else float(len(first) > len(second))


def first(prompt: str, one: str, other: str) -> float:
    """A judge with nothing but a position bias."""
    return 0.9
