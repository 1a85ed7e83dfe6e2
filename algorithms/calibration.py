"""How far predicted preferences can be trusted: accuracy, calibration, and leanings towards length and position.

`probabilities` are P(first > second) of N held-out pairs, `targets` the labels in [0, 1], where 1/2 is a tie. Every
figure is unchanged when pairs are turned round; ties count for calibration and not for accuracy.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proportion:
    """A share of `n` cases with its confidence interval; all NaN where there are no cases."""

    share: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Pairs whose confidence lies between two edges."""

    low: float
    high: float
    confidence: float
    """Mean probability of the response that the model prefers."""
    agreement: float
    """Mean label for that response."""
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Bins that hold any pair, and the expected calibration error: the mean of |confidence - agreement| over pairs."""

    bins: tuple[Bin, ...]
    error: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthBias:
    """Pairs whose lengths and whose labels differ.

    `model`, `labels`: share in which the longer response is preferred. `excess`: their difference, with the normal
    interval of the paired difference. `accuracy_longer`, `accuracy_shorter`: where the labels prefer the longer, or
    the shorter.
    """

    model: Proportion
    labels: Proportion
    excess: Proportion
    accuracy_longer: Proportion
    accuracy_shorter: Proportion


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionBias:
    """A model that is asked in both orders.

    `lean`: mean of (p_12 + p_21) / 2 - 1/2 with p the probability that the response shown first wins; 0 without bias.
    `consistent`: share of pairs in which both orders name the same response.
    """

    lean: float
    consistent: Proportion


def wilson(successes: float, n: int, confidence: float = 0.95) -> Proportion:
    """Score interval of a binomial share; half successes are allowed. Wilson 1927."""
    if not 0 <= successes <= n:
        raise ValueError(f"successes lie between 0 and n = {n}, got {successes}")
    if n == 0:
        return Proportion(share=np.nan, low=np.nan, high=np.nan, n=0)
    z = float(stats.norm.ppf(0.5 + confidence / 2.0))
    share, weight = successes / n, z * z / n
    centre = (share + weight / 2.0) / (1.0 + weight)
    half = np.sqrt(share * (1.0 - share) * weight + weight * weight / 4.0) / (1.0 + weight)
    # At 0 and 1 the share is an end of its interval, which rounding may not move to the other side.
    low, high = min(float(centre - half), share), max(float(centre + half), share)
    return Proportion(share=share, low=max(low, 0.0), high=min(high, 1.0), n=n)


def accuracy(probabilities: FloatArray, targets: FloatArray) -> Proportion:
    """Share of the pairs with a preference whose preferred response the model names; a tie of the model counts half."""
    strict = targets != 0.5
    return _shares(_hits(probabilities, targets)[strict])


def calibration(probabilities: FloatArray, targets: FloatArray, bins: int = 10) -> Calibration:
    """Reliability over `bins` of equal width in [1/2, 1], each pair read from the side that the model prefers.

    Naeini et al. 2015 (ECE). The label of an exact tie of the model is 1/2, whatever it was.
    """
    if len(probabilities) == 0:
        raise ValueError("calibration needs at least one pair")
    confidence = np.maximum(probabilities, 1.0 - probabilities)
    agreement = 0.5 + np.sign(probabilities - 0.5) * (targets - 0.5)
    edges = np.linspace(0.5, 1.0, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, bins - 1)
    filled = tuple(
        Bin(
            low=float(edges[b]),
            high=float(edges[b + 1]),
            confidence=float(confidence[place == b].mean()),
            agreement=float(agreement[place == b].mean()),
            n=int(np.count_nonzero(place == b)),
        )
        for b in range(bins)
        if (place == b).any()
    )
    error = sum(b.n * abs(b.confidence - b.agreement) for b in filled) / len(probabilities)
    return Calibration(bins=filled, error=float(error), n=len(probabilities))


def length_bias(probabilities: FloatArray, targets: FloatArray, first: FloatArray, second: FloatArray) -> LengthBias:
    """Leaning towards the longer response; `first`, `second`: lengths in any unit, [N]."""
    kept = (targets != 0.5) & (first != second)
    longer = np.sign(first - second)[kept]
    model = 0.5 + longer * np.sign(probabilities[kept] - 0.5) / 2.0
    labels = 0.5 + longer * np.sign(targets[kept] - 0.5) / 2.0
    hits = _hits(probabilities[kept], targets[kept])
    return LengthBias(
        model=_shares(model),
        labels=_shares(labels),
        excess=_mean(model - labels),
        accuracy_longer=_shares(hits[labels == 1.0]),
        accuracy_shorter=_shares(hits[labels == 0.0]),
    )


def position_bias(shown_first: FloatArray, shown_second: FloatArray) -> PositionBias:
    """Leaning towards a place; p_12 and p_21, [N]: P(the one shown first wins) with the first response there, or the
    second."""
    agree = (shown_first > 0.5) == (shown_second < 0.5)
    lean = (shown_first + shown_second) / 2.0 - 0.5
    return PositionBias(lean=float(lean.mean()), consistent=_shares(agree.astype(np.float64)))


def _hits(probabilities: FloatArray, targets: FloatArray) -> FloatArray:
    """1 where both prefer the same response, 0 where they differ, 1/2 where one has no preference."""
    hits: FloatArray = 0.5 + np.sign(probabilities - 0.5) * np.sign(targets - 0.5) / 2.0
    return hits


def _shares(outcomes: FloatArray) -> Proportion:
    return wilson(float(outcomes.sum()), len(outcomes))


def _mean(values: FloatArray, confidence: float = 0.95) -> Proportion:
    if len(values) < 2:
        return Proportion(share=np.nan, low=np.nan, high=np.nan, n=len(values))
    mean = float(values.mean())
    half = float(stats.norm.ppf(0.5 + confidence / 2.0) * values.std(ddof=1) / np.sqrt(len(values)))
    return Proportion(share=mean, low=mean - half, high=mean + half, n=len(values))
