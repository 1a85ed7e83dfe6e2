"""Which pairs of K candidates meet, and the whole [K, K] matrix from the pairs that did.

Three plans: `all`, K (K - 1) / 2 pairs; `tournament`, a knockout of K - 1 pairs; `sparse`, a random connected graph
of about `degree` meetings for each candidate. What was judged stands as it was judged. The rest is completed by
Bradley-Terry strengths fitted to the judged pairs by least squares on their log-odds: exact when the judge is a
Bradley-Terry model, and an assumption otherwise, under which pairs that did not meet are ordered transitively.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from scipy.special import expit, logit

from algorithms.preference import FloatArray, antisymmetric

PairPlan = Literal["all", "tournament", "sparse"]
Pair = tuple[int, int]
Ask = Callable[[Sequence[Pair]], FloatArray]
"""P(first preferred) of each of these pairs, [P]."""

CERTAIN = 0.01
"""Log-odds of a verdict beyond 1 - CERTAIN are fitted as if it were that: certainty has no finite strength."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparisons:
    """`matrix`: [K, K], exactly antisymmetric. `pairs`: those that met."""

    matrix: FloatArray
    pairs: tuple[Pair, ...]


def compare(count: int, plan: PairPlan, ask: Ask, seed: int = 0, degree: int = 4) -> Comparisons:
    """Let `count` candidates meet as planned; the seed draws the bracket or the graph.

    Raises: InvalidPreference when `ask` gives what is no probability.
    """
    if plan == "tournament":
        seen = _knockout(count, ask, seed)
    else:
        pairs = list(combinations(range(count), 2)) if plan == "all" else sparse_pairs(count, degree, seed)
        seen = dict(zip(pairs, map(float, ask(pairs)), strict=True)) if pairs else {}
    return Comparisons(matrix=completed(count, seen), pairs=tuple(seen))


def sparse_pairs(count: int, degree: int, seed: int) -> list[Pair]:
    """A connected graph on `count` candidates: a random cycle through all of them, then random other pairs.

    It has ceil(count * degree / 2) edges, at least the cycle's and at most all.
    """
    if count <= 3:
        return list(combinations(range(count), 2))
    generator = np.random.default_rng(seed)
    order = generator.permutation(count)
    cycle = {_ordered(int(a), int(b)) for a, b in zip(order, np.roll(order, 1), strict=True)}
    others = [pair for pair in combinations(range(count), 2) if pair not in cycle]
    wanted = max(-(-count * degree // 2) - len(cycle), 0)
    drawn = generator.permutation(len(others))[:wanted]
    return sorted([*cycle, *(others[i] for i in drawn)])


def completed(count: int, seen: dict[Pair, float]) -> FloatArray:
    """The [K, K] matrix in which the seen pairs (i, j) have their P(i > j), and the others Bradley-Terry's.

    The seen pairs have to connect all candidates.
    """
    judged = np.full((count, count), 0.5)
    met = np.eye(count, dtype=bool)
    for (i, j), probability in seen.items():
        judged[i, j], judged[j, i] = probability, 1.0 - probability
        met[i, j] = met[j, i] = True
    judged = antisymmetric(judged)
    if met.all():
        return judged
    strengths = _strengths(count, seen)
    return antisymmetric(np.where(met, judged, expit(np.subtract.outer(strengths, strengths))))


def _strengths(count: int, seen: dict[Pair, float]) -> FloatArray:
    """Least squares on log-odds, [K] with mean 0."""
    incidence = np.zeros((len(seen), count))
    for row, (i, j) in enumerate(seen):
        incidence[row, i], incidence[row, j] = 1.0, -1.0
    log_odds = logit(np.clip(list(seen.values()), CERTAIN, 1.0 - CERTAIN))
    return np.asarray(np.linalg.lstsq(incidence, log_odds, rcond=None)[0])


def _knockout(count: int, ask: Ask, seed: int) -> dict[Pair, float]:
    """Rounds in which the preferred of each pair goes on; a tie is drawn, and the odd one out rests."""
    generator = np.random.default_rng(seed)
    left = [int(k) for k in generator.permutation(count)]
    seen: dict[Pair, float] = {}
    while len(left) > 1:
        pairs = [_ordered(a, b) for a, b in zip(left[::2], left[1::2], strict=False)]
        found = [float(p) for p in ask(pairs)]
        seen |= dict(zip(pairs, found, strict=True))
        first_goes_on = [p > 0.5 or (p == 0.5 and bool(generator.integers(2))) for p in found]
        winners = [pair[0] if won else pair[1] for pair, won in zip(pairs, first_goes_on, strict=True)]
        left = winners + left[2 * len(pairs) :]
    return seen


def _ordered(one: int, other: int) -> Pair:
    return (one, other) if one < other else (other, one)
