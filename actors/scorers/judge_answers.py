"""Reading a language model's verdict out of what it answered."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """What a judge writes when it prefers the response shown first, the second, or neither."""

    first: str
    second: str
    tie: str

    def probability(self, mass: Mapping[str, float]) -> float | None:
        """P(first) from the mass of each label, a tie counted half; none without any mass."""
        total = sum(mass.get(label, 0.0) for label in self.all)
        return (mass.get(self.first, 0.0) + mass.get(self.tie, 0.0) / 2.0) / total if total > 0 else None

    @property
    def all(self) -> tuple[str, str, str]:
        """The three labels."""
        return self.first, self.second, self.tie


def probability_of(choice: Mapping[str, Any], labels: Labels) -> float | None:
    """P(first preferred) from one choice of a chat completion; none when it has no verdict.

    The verdict is the last label in double brackets; without brackets, the first or last word, where it is the only
    label named. Where its token has log-probabilities, they are normalised over the labels (AlpacaEval 2's weighted
    judge).
    """
    written, last = _written(choice["message"]["content"], labels)
    if written is None:
        return None
    tokens = (choice.get("logprobs") or {}).get("content") or []
    places = [token for token in tokens if _bare(token["token"]) == written]
    if places:
        mass: dict[str, float] = {}
        for entry in places[-1 if last else 0].get("top_logprobs") or []:
            label = _bare(entry["token"])
            mass[label] = mass.get(label, 0.0) + math.exp(entry["logprob"])
        if (probability := labels.probability(mass)) is not None:
            return probability
    return labels.probability({written: 1.0})


def _written(text: str, labels: Labels) -> tuple[str | None, bool]:
    """The label that a text gives as its verdict, and whether it is the last or the first that it names."""
    bracketed = [found for found in re.findall(r"\[\[(.*?)\]\]", text) if found in labels.all]
    if bracketed:
        return bracketed[-1], True
    words = [_bare(word) for word in text.split()]
    named = {word for word in words if word in labels.all}
    if len(named) != 1 or named.isdisjoint((words[0], words[-1])):
        return None, True
    return named.pop(), words[0] not in labels.all


def _bare(token: str) -> str:
    """A token or word without the marks around it."""
    return token.strip(" \t\r\n\"'`*.,:;()[]")
