"""From a scored group to its training pairs: identical candidates never make a pair.

Two ways: `choose_pairs` for losses that want a winner and a loser, where ties make no pair either; `distinct_pairs`
for regressions, to which a tie is a target like any other.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Literal

import numpy as np

from algorithms.preference import FloatArray
from algorithms.win_rates import IndexArray, self_included

PairChoice = Literal["best_worst", "all", "random"]

# Win rates are sums of K rounded terms: those closer than this are the same rate.
RATE_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pairs:
    """Pairs of candidates of one group.

    `first`, `second`: [P] indices of candidates, the preferred one first where the objective needs an order.
    `target`: [P], P(first > second). `first_rate`, `second_rate`: [P], estimated win rate of each against the
    objective's opponents; 1/2 where it has none. `weight`: [P], factor of the pair's loss. `dropped`: pairs that
    the choice asked for but that were ties or identical candidates; P + dropped is the number asked for.
    `effective_opponents`: effective sample size of the opponents, where they were weighted.
    """

    first: IndexArray
    second: IndexArray
    target: FloatArray
    first_rate: FloatArray = field(default_factory=lambda: np.zeros(0))
    second_rate: FloatArray = field(default_factory=lambda: np.zeros(0))
    weight: FloatArray = field(default_factory=lambda: np.zeros(0))
    dropped: int
    effective_opponents: float | None = None

    def __post_init__(self) -> None:
        for name, neutral in (("first_rate", 0.5), ("second_rate", 0.5), ("weight", 1.0)):
            if not len(getattr(self, name)):
                object.__setattr__(self, name, np.full(len(self.first), neutral))

    def __len__(self) -> int:
        return len(self.first)

    def take(self, kept: IndexArray, asked: int) -> "Pairs":
        """The pairs at `kept`, of `asked` that were asked for."""
        names = ("first", "second", "target", "first_rate", "second_rate", "weight")
        return replace(self, dropped=asked - len(kept), **{name: getattr(self, name)[kept] for name in names})

    def weighted(self, weight: FloatArray, effective_opponents: float) -> "Pairs":
        """The same pairs with these weights [P]."""
        return replace(self, weight=weight, effective_opponents=effective_opponents)


def choose_pairs(preference: FloatArray, identity: Sequence[Hashable], choice: PairChoice, seed: int) -> Pairs:
    """Choose pairs from an exactly antisymmetric `preference` [K, K]; `identity[k]` is, say, the token ids.

    `all` asks for the K (K - 1) / 2 pairs; `best_worst` for the candidates of highest and lowest win rate,
    equal rates separated by the seed, oriented by their direct comparison; `random` for one pair, uniform
    over the usable ones.
    """
    count = len(identity)
    if count < 2 or preference.shape != (count, count):
        raise ValueError(f"pairs need K >= 2 candidates and a K x K matrix, got K = {count} and {preference.shape}")
    generator = np.random.default_rng(seed)
    asked = list(combinations(range(count), 2))
    if choice == "best_worst":
        asked = [_best_and_worst(preference, generator)]
    usable = [(i, j) for i, j in asked if preference[i, j] != 0.5 and identity[i] != identity[j]]
    dropped = len(asked) - len(usable)
    if choice == "random":
        dropped = 0 if usable else 1
        usable = [usable[generator.integers(len(usable))]] if usable else []
    oriented = [(i, j) if preference[i, j] > 0.5 else (j, i) for i, j in usable]
    first, second = np.array(oriented, dtype=np.int64).reshape(-1, 2).T
    return Pairs(first=first, second=second, target=preference[first, second], dropped=dropped)


def distinct_pairs(identity: Sequence[Hashable], candidates: IndexArray) -> tuple[IndexArray, IndexArray, int]:
    """Every pair of the candidates at these places whose members differ: first [P], second [P], and how many do not."""
    numbers: dict[Hashable, int] = {}
    number = np.array([numbers.setdefault(identity[k], len(numbers)) for k in candidates])
    rows, columns = np.triu_indices(len(candidates), 1)
    differs = number[rows] != number[columns]
    return candidates[rows[differs]], candidates[columns[differs]], int(np.count_nonzero(~differs))


def regression_pairs(
    preference: FloatArray, first: IndexArray, second: IndexArray, rates: tuple[FloatArray, FloatArray], dropped: int
) -> Pairs:
    """Pairs with their win rates, the member with the higher rate first."""
    first_rate, second_rate = rates
    swapped = second_rate > first_rate
    first, second = np.where(swapped, second, first), np.where(swapped, first, second)
    return Pairs(
        first=first,
        second=second,
        target=preference[first, second],
        first_rate=np.maximum(*rates),
        second_rate=np.minimum(*rates),
        dropped=dropped,
    )


def _best_and_worst(preference: FloatArray, generator: np.random.Generator) -> tuple[int, int]:
    rates = self_included(preference)
    best = generator.choice(np.flatnonzero(rates >= rates.max() - RATE_TOLERANCE))
    rates[best] = np.inf
    worst = generator.choice(np.flatnonzero(rates <= rates.min() + RATE_TOLERANCE))
    return int(best), int(worst)
