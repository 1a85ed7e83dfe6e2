"""Judges whose verdicts are known by construction, and judges that misbehave in one way each."""

from collections.abc import Callable


def longer(prompt: str, first: str, second: str) -> float:
    """Prefers the longer text."""
    return 0.5 if len(first) == len(second) else float(len(first) > len(second))


def more_letters(prompt: str, first: str, second: str) -> float:
    """Prefers the text with more letters."""
    a, b = sum(map(str.isalpha, first)), sum(map(str.isalpha, second))
    return 0.5 if a == b else float(a > b)


def confident(prompt: str, first: str, second: str) -> float:
    """Probabilities between 0 and 1: 0.8 for the longer text."""
    return 0.5 if len(first) == len(second) else 0.8 if len(first) > len(second) else 1.0 - 0.8


def rock_paper_scissors(prompt: str, first: str, second: str) -> float:
    """A cycle: paper beats rock, scissors beat paper, rock beats scissors; no ranking agrees with it."""
    places = {"rock": 0, "paper": 1, "scissors": 2}
    return {0: 0.5, 1: 1.0, 2: 0.0}[(places[first] - places[second]) % 3]


def _ranks(order: str, first: str, second: str) -> float:
    return 0.5 if first == second else float(order.index(first) < order.index(second))


def abc(prompt: str, first: str, second: str) -> float:
    """a before b before c; with `bca` and `cab` a panel whose majority is Condorcet's cycle."""
    return _ranks("abc", first, second)


def bca(prompt: str, first: str, second: str) -> float:
    """b before c before a."""
    return _ranks("bca", first, second)


def cab(prompt: str, first: str, second: str) -> float:
    """c before a before b."""
    return _ranks("cab", first, second)


def raises_on_empty(prompt: str, first: str, second: str) -> float:
    """Fails on an empty text, as a judge with a bug may."""
    if not first or not second:
        raise ZeroDivisionError("no words to count")
    return longer(prompt, first, second)


def nan_judge(prompt: str, first: str, second: str) -> float:
    """Returns no number at all."""
    return float("nan")


def always_first(prompt: str, first: str, second: str) -> float:
    """Position bias: whoever comes first wins, so that it contradicts itself."""
    return 1.0


def out_of_range(prompt: str, first: str, second: str) -> float:
    """A score where a probability is wanted."""
    return 7.0 if len(first) > len(second) else -6.0


def no_number(prompt: str, first: str, second: str) -> float:
    """Returns text."""
    return "first"  # type: ignore[return-value]


not_a_function = 3


def longer_by(share: float) -> Callable[[str, str, str], float]:
    """The judge that prefers the longer text with this probability."""

    def judge(prompt: str, first: str, second: str) -> float:
        return 0.5 if len(first) == len(second) else share if len(first) > len(second) else 1.0 - share

    return judge
