"""From a scored group to its training pairs: neither ties nor identical candidates ever make a pair."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import numpy.typing as npt

from algorithms.preference import FloatArray, win_rates

PairChoice = Literal["best_worst", "all", "random"]

# Win rates are sums of K rounded terms: those closer than this are the same rate.
_RATE_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pairs:
    """Pairs of candidates of one group, the preferred one first.

    `first`, `second`: [P] indices of candidates. `target`: [P], P(first > second), above 1/2. `dropped`:
    pairs that the choice asked for but that were ties or identical candidates; P + dropped is the number
    asked for.
    """

    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    target: FloatArray
    dropped: int

    def __len__(self) -> int:
        return len(self.first)


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


def _best_and_worst(preference: FloatArray, generator: np.random.Generator) -> tuple[int, int]:
    rates = win_rates(preference)
    best = generator.choice(np.flatnonzero(rates >= rates.max() - _RATE_TOLERANCE))
    rates[best] = np.inf
    worst = generator.choice(np.flatnonzero(rates <= rates.min() + _RATE_TOLERANCE))
    return int(best), int(worst)
