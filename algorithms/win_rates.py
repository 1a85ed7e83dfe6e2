"""Estimates of the win rate P(y > pi) from a group's preference matrix, and their correction for old opponents.

Which estimate fits which loss is a matter of bias. A pair regression sees the difference of two rates, and each
member of the pair is an opponent of the other: counting oneself and dividing by K, or leaving out both members and
dividing by K - 2, gives differences whose regression is exact; leaving out only oneself and dividing by K - 1
overshoots by K / (K - 1). That last form is right for a policy gradient alone, and lives there (`objectives/spo.py`).
"""

import numpy as np
import numpy.typing as npt

from algorithms.preference import FloatArray

IndexArray = npt.NDArray[np.int64]

# Beyond this a log-ratio of two sequences says only that they are far apart, in nats.
LOG_RATIO_LIMIT = 20.0


def self_included(preference: FloatArray) -> FloatArray:
    """Rates among the K candidates themselves, own 1/2 included, divided by K: [K, K] -> [K]. SPPO, 2405.00675."""
    rates: FloatArray = preference.mean(axis=1)
    return rates


def pair_excluded(preference: FloatArray, first: IndexArray, second: IndexArray) -> tuple[FloatArray, FloatArray]:
    """Rates of the members of each pair [P] among the K - 2 candidates outside it: [K, K] -> [P], [P]. K >= 3."""
    count = len(preference)
    if count < 3:
        raise ValueError(f"rates against the candidates outside a pair need K >= 3, got K = {count}")
    others = preference.sum(axis=1) - 0.5
    direct = preference[first, second]
    return (others[first] - direct) / (count - 2), (others[second] - (1.0 - direct)) / (count - 2)


def within_pair(labels: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Rates of the members of each pair among the pair itself: P(first > second) [P] -> [P], [P].

    `self_included` with K = 2. Their difference is P - 1/2, so that a regression on it is the two-sample form, whose
    implicit opponent is whatever sampled the pair.
    """
    return (labels + 0.5) / 2.0, (1.5 - labels) / 2.0


def against(preference: FloatArray, opponents: IndexArray, weights: FloatArray | None = None) -> FloatArray:
    """Rates of all K candidates against those at `opponents` [M]: [K, K] -> [K].

    `weights` [M] are self-normalised: sum_k w_k P(y > y_k) / sum_k w_k.
    """
    rates: FloatArray = np.average(preference[:, opponents], axis=1, weights=weights)
    return rates


def truncated_weights(log_ratios: FloatArray, cap: float) -> FloatArray:
    """min(exp(clip(log pi - log behaviour, -20, 20)), cap), elementwise; log-ratios of whole sequences, nats."""
    weights: FloatArray = np.minimum(np.exp(np.clip(log_ratios, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)), cap)
    return weights


def effective_sample_size(weights: FloatArray) -> float:
    """(sum w)^2 / sum w^2, between 1 and the number of weights."""
    return float(weights.sum() ** 2 / np.square(weights).sum())
