"""What a preference scorer is: a prompt and K responses in, one [K, K] matrix a member out, or a named rejection."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from actors.records import Group, Message
from algorithms.comparisons import Ask, Comparisons
from algorithms.preference import FloatArray

Messages = Sequence[Message]
Plan = Callable[[int, Ask, int], Comparisons]
"""Lets K candidates meet, given who is asked and a seed; see `algorithms.comparisons`."""


class ScorerError(ValueError):
    """A scorer that can't be imported, loaded or called."""


class Rejection(Exception):
    """A group can't be scored; the message is the reason, the name what is counted."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Verdict:
    """What one scorer says of K responses.

    `matrices`: [M, K, K], one for each of its members, exactly antisymmetric. `rewards`: [K, M] in the members' own
    units, where they are rewards. `calls`, `cached`, `cut`: see `records.ScoringFigures`.
    """

    matrices: FloatArray
    rewards: FloatArray | None = None
    calls: int = 0
    cached: int = 0
    cut: int = 0


class PreferenceScorer(Protocol):
    """One entry of a panel."""

    @property
    def members(self) -> tuple[str, ...]:
        """Names of its members: itself, or the heads of a reward model."""

    @property
    def pointwise(self) -> bool:
        """Whether its members are rewards."""

    def load(self) -> None:
        """Read what is too large for a check of the configuration."""

    def verdict(self, messages: Messages, responses: Sequence[str], seed: int) -> Verdict:
        """Compare K responses; the seed draws which of them meet.

        Raises: `Rejection` naming the scorer and what it did.
        """


def prompt_text(group: Group) -> str:
    """What judges read as the prompt: the last user message."""
    return last_question(group.messages)


def last_question(messages: Messages) -> str:
    """The last user message of a conversation; its last message where no user speaks."""
    users = [message["content"] for message in messages if message["role"] == "user"]
    return users[-1] if users else messages[-1]["content"]
