"""When a run should warn or stop: rules over the figures of its versions, in order, each decided from the past alone.

A rule passes over figures that are missing or not finite. The caller decides what a broken rule means: a warning, or
the end of the run.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

Figures = Mapping[str, float]
"""Figures of one version by name."""


class Rule(Protocol):
    """A condition on a run's history."""

    def broken(self, history: Sequence[Figures]) -> str | None:
        """Why the run should be looked at, as one sentence; none where all is well. Oldest figures come first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EntropyCollapse:
    """The policy's entropy has fallen below a share of what it was at the start.

    Each of both is the mean of `window` versions, so that one odd batch breaks nothing.
    """

    share: float = 0.4
    window: int = 3
    entropy: str = "entropy"

    def broken(self, history: Sequence[Figures]) -> str | None:
        """See `Rule`."""
        values = _finite(history, self.entropy)
        if len(values) < 2 * self.window:
            return None
        start, now = _mean(values[: self.window]), _mean(values[-self.window :])
        if now >= self.share * start:
            return None
        return f"{self.entropy} collapsed: {now:.3g} nats a token, {now / start:.0%} of the {start:.3g} at the start"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenFalls:
    """The log-probability of chosen answers goes on falling and has lost more than `limit` nats.

    Some fall alone is expected: after supervised training on the chosen answers, its mean is about -KL(ref || pi)
    (Rafailov et al. 2024, arXiv 2406.02900, eq. 7). So the rule asks for both: `limit` nats below the start, and
    below each of the `patience` means before, at `window` versions a mean.
    """

    limit: float = 50.0
    window: int = 3
    patience: int = 3
    logprob: str = "chosen_logprob"

    def broken(self, history: Sequence[Figures]) -> str | None:
        """See `Rule`."""
        means = _block_means(_finite(history, self.logprob), self.window)
        if len(means) <= self.patience:
            return None
        last = means[-self.patience - 1 :]
        falling = all(after < before for before, after in pairwise(last))
        lost = means[0] - means[-1]
        if not falling or lost <= self.limit:
            return None
        return (
            f"{self.logprob} goes on falling: {lost:.3g} nats below the start, and lower {self.patience} times running"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reversal:
    """Likelihood over-optimisation: the entropy of the top tokens fell and now rises, while their mass shrinks.

    Shi et al. 2024 (arXiv 2410.11677) saw both turn where the win rate turns. Means of `window` versions are
    compared; each has to be past its turning point by `tolerance` of the range that it covered before, for `patience`
    means in a row. UNCERTAIN in the paper: how far past counts, hence the options.
    """

    window: int = 3
    patience: int = 2
    tolerance: float = 0.1
    entropy: str = "top_entropy"
    mass: str = "top_mass"

    def broken(self, history: Sequence[Figures]) -> str | None:
        """See `Rule`."""
        both = [row for row in history if _known(row, self.entropy) and _known(row, self.mass)]
        entropies = _block_means([row[self.entropy] for row in both], self.window)
        masses = _block_means([row[self.mass] for row in both], self.window)
        if not self._turned(entropies) or not self._turned([-mass for mass in masses]):
            return None
        return (
            f"{self.entropy} rises again ({min(entropies):.3g} to {entropies[-1]:.3g}) while {self.mass} shrinks "
            f"({max(masses):.3g} to {masses[-1]:.3g}): the win rate tends to turn where these do"
        )

    def _turned(self, means: Sequence[float]) -> bool:
        """Whether a series that fell has been above its lowest point, by the tolerance, for the last means."""
        if len(means) < self.patience + 2:
            return False
        before, last = means[: -self.patience], means[-self.patience :]
        fallen = before[0] - min(before)
        return fallen > 0.0 and all(value > min(before) + self.tolerance * fallen for value in last)


def newly_broken(rules: Mapping[str, Rule], history: Sequence[Figures], known: set[str]) -> dict[str, str]:
    """Reasons of the rules, by their names, that are broken now and are not among those `known` to be."""
    found = {name: rule.broken(history) for name, rule in rules.items() if name not in known}
    return {name: reason for name, reason in found.items() if reason is not None}


def _known(row: Figures, name: str) -> bool:
    value = row.get(name)
    return value is not None and math.isfinite(value)


def _finite(history: Sequence[Figures], name: str) -> list[float]:
    return [row[name] for row in history if _known(row, name)]


def _block_means(values: Sequence[float], window: int) -> list[float]:
    """Means of blocks of `window` values, the last of which ends with the last value; what is left over is dropped."""
    start = len(values) % window
    return [_mean(values[i : i + window]) for i in range(start, len(values), window)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
