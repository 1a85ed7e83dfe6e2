"""Win-probability matrices: what leaves this module has P + P^T = 1 bit for bit and 1/2 on the diagonal.

Exactness rests on one fact of binary floating point: for p in [1/2, 1] the difference 1 - p is exact
(Sterbenz), so the preferred side of each pair is computed and the other side is one minus it.
"""

import math

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


class InvalidPreference(ValueError):
    """A matrix that is no win-probability matrix; the message names the offending pair and both numbers."""


def antisymmetric(raw: npt.ArrayLike, tolerance: float = 1e-6) -> FloatArray:
    """Return the win-probability matrix (raw + 1 - raw^T) / 2, [K, K] float64, exactly antisymmetric.

    `raw[i, j]` is the probability that candidate i beats candidate j. The entries have to be finite and in
    [0, 1], and those off the diagonal have to satisfy |raw + raw^T - 1| <= tolerance. The result depends on
    candidates only through their entries (relabelling commutes) and is its own image. Raises
    InvalidPreference.
    """
    matrix = np.asarray(raw, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise InvalidPreference(f"a preference matrix is square, got shape {matrix.shape}")
    outside = ~((matrix >= 0.0) & (matrix <= 1.0))
    if outside.any():
        i, j = np.argwhere(outside)[0]
        raise InvalidPreference(
            f"candidates ({i}, {j}): P[{i},{j}] = {matrix[i, j]} (and P[{j},{i}] = {matrix[j, i]}) "
            "is not a probability in [0, 1]"
        )
    excess = np.abs(matrix + matrix.T - 1.0)
    np.fill_diagonal(excess, 0.0)
    if (excess > tolerance).any():
        i, j = np.unravel_index(int(np.argmax(excess)), excess.shape)
        raise InvalidPreference(
            f"candidates ({i}, {j}): P[{i},{j}] = {matrix[i, j]} and P[{j},{i}] = {matrix[j, i]} sum to "
            f"{matrix[i, j] + matrix[j, i]}, not 1 within {tolerance}; average the scorer over both orders"
        )
    return _exact(matrix)


def _exact(matrix: FloatArray) -> FloatArray:
    """Antisymmetric part of a matrix in [0, 1] around 1/2; exact, and the identity on its own results."""
    lead = (matrix - matrix.T) / 2.0
    preferred = 0.5 + np.abs(lead)
    return np.where(lead >= 0.0, preferred, 1.0 - preferred)


def majority(stack: npt.ArrayLike) -> FloatArray:
    """Verdict of a panel, [M, K, K] -> [K, K]: 1 if more members prefer i to j, 0 if fewer, 1/2 if tied.

    A member's vote is the sign of P - 1/2. The verdict may be intransitive though every member is transitive
    (Condorcet).
    """
    members = np.asarray(stack, dtype=np.float64)
    if members.ndim != 3 or members.shape[0] == 0 or members.shape[1] != members.shape[2]:
        raise InvalidPreference(f"a panel is a stack [M, K, K] of at least one matrix, got shape {members.shape}")
    verdict: FloatArray = (np.sign(np.sign(members - 0.5).sum(axis=0)) + 1.0) / 2.0
    return verdict


def cyclic_share(preference: FloatArray) -> float:
    """Share of the unordered triples that form a strict cycle i > j > k > i; 0 below three, 1/4 by chance."""
    count = preference.shape[0]
    if count < 3:
        return 0.0
    beats = (preference > 0.5).astype(np.int64)
    cycles = np.trace(beats @ beats @ beats) // 3
    return float(cycles / math.comb(count, 3))


def penalise_truncated(preference: FloatArray, truncated: BoolArray, penalty: float) -> FloatArray:
    """Move preference away from candidates that were cut off before they ended, [K, K], [K] bool -> [K, K].

    P_ij <- (1 - penalty) P_ij + penalty t with t = 0 where only i is truncated and 1 where only j is; pairs
    alike in this respect are unchanged. `penalty` in [0, 1]: 0 changes nothing, 1 makes every truncated
    candidate lose.
    """
    if not 0.0 <= penalty <= 1.0:
        raise ValueError(f"the truncation penalty is a share in [0, 1], got {penalty}")
    cut = np.asarray(truncated, dtype=np.bool_)
    if cut.shape != preference.shape[:1]:
        raise ValueError(f"{preference.shape[0]} candidates, but truncated has shape {cut.shape}")
    differs = cut[:, None] != cut[None, :]
    target = np.broadcast_to(cut[None, :], preference.shape).astype(np.float64)
    return _exact(np.where(differs, (1.0 - penalty) * preference + penalty * target, preference))


def with_flips(preference: FloatArray, flip_rate: float) -> FloatArray:
    """(1 - e) P + e (1 - P), [K, K] -> [K, K]: the probabilities of a judge whose verdict is reversed at rate e."""
    if not 0.0 <= flip_rate <= 0.5:
        raise ValueError(f"the flip rate is a share in [0, 1/2], got {flip_rate}; above, preferences are reversed")
    return _exact((1.0 - flip_rate) * preference + flip_rate * (1.0 - preference))


def sampled_labels(preference: FloatArray, seed: int) -> FloatArray:
    """Each pair's verdict drawn once, [K, K] -> [K, K]: 1 with probability P_ij and else 0; 1/2 on the diagonal."""
    draws = np.random.default_rng(seed).random(preference.shape)
    upper = np.triu(draws < preference, 1).astype(np.float64)
    return np.asarray(upper + np.tril(1.0 - upper.T, -1) + 0.5 * np.eye(len(preference)))
