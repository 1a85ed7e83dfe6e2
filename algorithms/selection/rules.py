"""Rules that put candidates in order, the best first.

A candidate without a finite score (its scoring failed) is left out, never placed last or given 0. Ties go to the
earlier candidate, so that every order follows from its arguments alone.
"""

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

from algorithms.preference import antisymmetric

FloatArray = npt.NDArray[np.float64]
IndexArray = npt.NDArray[np.int64]


class NothingScored(ValueError):
    """No candidate has a score, so none can be chosen."""


def distinct(identity: Sequence[Hashable]) -> tuple[list[int], IndexArray]:
    """Places of the first of each kind of candidate, and for each candidate [K] its kind.

    What is scored are the first ones; `scores[kinds]` gives every candidate its score.
    """
    first: dict[Hashable, int] = {}
    for place, member in enumerate(identity):
        first.setdefault(member, place)
    order = {member: kind for kind, member in enumerate(first)}
    return list(first.values()), np.array([order[member] for member in identity], dtype=np.int64)


def projected(rewards: npt.ArrayLike, target: npt.ArrayLike) -> FloatArray:
    """s_i = target . r_i, [K], of reward vectors [K, d]; NaN where a reward is not finite.

    Robust Preference Selection scores every candidate by the target direction, whatever direction it was written
    for (arXiv 2510.20498, algorithm 1). Written for v_i, a candidate's score along v_i differs from this by at most
    2 sin(theta / 2) ||r||, theta being the angle between v_i and the target.
    """
    rewards = np.asarray(rewards, dtype=np.float64)
    scores = np.asarray(rewards @ np.asarray(target, dtype=np.float64), dtype=np.float64)
    return np.where(np.isfinite(scores), scores, np.nan)


def best_of_n(scores: npt.ArrayLike) -> IndexArray:
    """Candidates by falling score."""
    values = np.asarray(scores, dtype=np.float64)
    return _by(-values, _scored(values))


def soft_best_of_n(scores: npt.ArrayLike, temperature: float, seed: int) -> IndexArray:
    """Candidates drawn one after the other, without replacement, with probabilities softmax(scores / temperature).

    Low temperatures approach best-of-n, high ones a sample of the policy itself. Drawn by Gumbel keys, which gives
    exactly this distribution.
    """
    if not temperature > 0.0:
        raise ValueError(f"the temperature of soft best-of-n is above 0, got {temperature}; for 0 use best_of_n")
    values = np.asarray(scores, dtype=np.float64)
    noise = np.random.default_rng(seed).gumbel(size=len(values))
    places = _scored(values)
    # Differences first: scores of any size stay finite when they are divided by a small temperature.
    return _by((values[places].max() - values) / temperature - noise, places)


def best_of_majority(scores: npt.ArrayLike, answers: Sequence[Hashable], alpha: float) -> IndexArray:
    """Best-of-n among the answers that enough candidates agree on (Di et al. 2025, arXiv 2510.03199).

    pi_hat(y) is the share of the K candidates whose answer is y, failed ones included. Answers with pi_hat >= alpha
    come first, each represented by its best candidate, by falling score; alpha = 0 keeps every answer. Behind them
    the other candidates follow by falling score. If no answer reaches alpha, the most frequent ones do (the paper
    leaves that case open).
    """
    values = np.asarray(scores, dtype=np.float64)
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha is a share between 0 and 1, got {alpha}")
    _, kinds = distinct(answers)
    share = np.bincount(kinds) / len(kinds)
    order = best_of_n(values)
    scored_share = share[kinds[order]].max()
    # Shares are counts over K: anything closer than half of one candidate is the same share.
    threshold = min(alpha, scored_share) - 0.5 / len(kinds)
    represented: dict[int, int] = {}
    for place in order.tolist():
        if share[kinds[place]] > threshold:
            represented.setdefault(int(kinds[place]), place)
    first = list(represented.values())
    return np.array([*first, *(place for place in order.tolist() if place not in set(first))], dtype=np.int64)


def tournament(preference: npt.ArrayLike, answered: npt.ArrayLike | None = None) -> IndexArray:
    """Candidates by falling mean probability of beating the others.

    preference: [K, K], antisymmetric around 1/2. answered: [K], false for a candidate that could not be compared;
    its row and column are not read.
    """
    matrix = np.asarray(preference, dtype=np.float64)
    places = np.flatnonzero(np.ones(len(matrix)) if answered is None else np.asarray(answered))
    if not len(places):
        raise NothingScored("no candidate could be compared")
    rates = antisymmetric(matrix[np.ix_(places, places)]).mean(axis=1)
    # Rates are sums of rounded terms: those closer than this are the same rate.
    return places[np.argsort(-np.round(rates, 9), kind="stable")]


def _scored(scores: FloatArray) -> IndexArray:
    places = np.flatnonzero(np.isfinite(scores))
    if not len(places):
        raise NothingScored(f"none of the {len(scores)} candidates has a score")
    return places


def _by(keys: FloatArray, places: IndexArray) -> IndexArray:
    return places[np.argsort(keys[places], kind="stable")]
