"""Judges for tests: simple, exact, and some that misbehave on purpose."""


def ascii_share(prompt: str, first: str, second: str) -> float:
    """Prefers the text with more ASCII letters: something that random bytes differ in and a tiny model can learn."""
    a, b = _letters(first), _letters(second)
    return 0.5 if a == b else float(a > b)


def _letters(text: str) -> int:
    return sum(letter.isascii() and letter.isalpha() for letter in text)
