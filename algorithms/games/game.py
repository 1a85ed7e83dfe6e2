"""Preference games over n actions: the payoff, the best response and the distances to equilibrium.

Contract: a `Game` that exists is valid (P + P^T = 1 exactly up to rounding, the reference has full
support and sums to one, beta > 0), its arrays are read-only, and every function here works on
log-probabilities, so no probability that underflows turns into a NaN.

Two players choose policies p and q over the same n actions; P[i, j] is the probability that action i is
preferred to action j (P_ij + P_ji = 1, P_ii = 1/2).  With a reference mu and a temperature beta the
regularised game is
    J(p, q) = p^T P q - beta KL(p || mu) + beta KL(q || mu),     J(p, p) = 1/2
(Munos et al. 2312.00886; Zhang et al. 2407.00617, eq. 3).  Log-probabilities are natural logarithms and
KL divergences are in nats throughout.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

FloatArray = npt.NDArray[np.float64]

# Room for matrices and log-probabilities that were computed in float32.
VALIDATION_TOLERANCE = 1e-5


def log_normalise(log_weights: npt.ArrayLike) -> FloatArray:
    """Return `log_weights` [n] minus their logsumexp: the log-probabilities they are proportional to."""
    weights = np.asarray(log_weights, dtype=np.float64)
    # Written out because scipy's logsumexp costs several times an update of a small game.
    largest = weights.max()
    return np.asarray(weights - (largest + np.log(np.sum(np.exp(weights - largest)))), dtype=np.float64)


def kl(log_p: npt.ArrayLike, log_q: npt.ArrayLike) -> float:
    """KL(p || q) in nats of two normalised log-probability vectors [n]; never negative.

    Summed as p (e^d - 1 - d) with d = log q - log p, whose terms are non-negative and which equals the
    usual sum because both vectors sum to one; it is accurate to rounding even where p and q nearly agree.
    """
    p_log, q_log = np.asarray(log_p, dtype=np.float64), np.asarray(log_q, dtype=np.float64)
    p, q = np.exp(p_log), np.exp(q_log)
    inside = p > 0.0
    if np.any(inside & (q_log == -np.inf)):
        return float("inf")
    difference = np.where(inside, q_log, 0.0) - np.where(inside, p_log, 0.0)
    near = np.abs(difference) < 0.5
    small = np.where(near, difference, 0.0)
    terms = np.where(near, p * (np.expm1(small) - small), q - p - p * difference)
    return max(float(np.sum(np.where(inside, terms, q))), 0.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Game:
    """A preference game: `preference` [n, n] in [0, 1], `reference` [n] log-probabilities, `beta` > 0.

    Raises ValueError when the matrix is not square, holds a NaN or a value outside [0, 1], or is not
    antisymmetric around 1/2; when the reference has the wrong length, lacks full support or does not sum to
    one; when beta is not positive.  Deviations up to `VALIDATION_TOLERANCE` are accepted and removed, so
    that the identities of the zero-sum game hold to rounding.

    >>> game = Game(preference=[[0.5, 0.9], [0.1, 0.5]], reference=np.log([0.5, 0.5]), beta=0.5)
    >>> game.win_rates(game.reference).round(3).tolist()
    [0.7, 0.3]
    """

    preference: FloatArray
    reference: FloatArray
    beta: float

    def __post_init__(self) -> None:
        preference = _checked_preference(self.preference)
        object.__setattr__(self, "preference", preference)
        object.__setattr__(self, "reference", _checked_reference(self.reference, len(preference)))
        object.__setattr__(self, "beta", _checked_beta(self.beta))

    @property
    def actions(self) -> int:
        """The number n of actions."""
        return len(self.preference)

    def with_reference(self, reference: npt.ArrayLike) -> Game:
        """Return this game with another reference [n] (log-probabilities); the matrix is shared."""
        clone = copy.copy(self)
        object.__setattr__(clone, "reference", _checked_reference(reference, self.actions))
        return clone

    def with_beta(self, beta: float) -> Game:
        """Return this game at another temperature; matrix and reference are shared."""
        clone = copy.copy(self)
        object.__setattr__(clone, "beta", _checked_beta(beta))
        return clone

    def permuted(self, order: Sequence[int] | npt.NDArray[np.integer]) -> Game:
        """Return the game whose action i is this game's action order[i]."""
        index = np.asarray(order)
        return Game(preference=self.preference[np.ix_(index, index)], reference=self.reference[index], beta=self.beta)

    def win_rates(self, log_opponent: FloatArray) -> FloatArray:
        """w(q) = P q [n]: the probability that each action is preferred to a draw from the opponent."""
        return np.asarray(self.preference @ np.exp(log_opponent), dtype=np.float64)

    def win_rate(self, log_policy: FloatArray, log_opponent: FloatArray) -> float:
        """p^T P q: the probability that a draw from the policy is preferred to one from the opponent."""
        return float(np.exp(log_policy) @ self.win_rates(log_opponent))

    def payoff(self, log_policy: FloatArray, log_opponent: FloatArray) -> float:
        """J(p, q) = p^T P q - beta KL(p || mu) + beta KL(q || mu); p maximises and q minimises."""
        divergence = kl(log_policy, self.reference) - kl(log_opponent, self.reference)
        return self.win_rate(log_policy, log_opponent) - self.beta * divergence

    def best_response(self, log_opponent: FloatArray) -> FloatArray:
        """BR(q)(y) proportional to mu(y) exp((P q)(y) / beta), as log-probabilities [n]."""
        return log_normalise(self.reference + self.win_rates(log_opponent) / self.beta)

    def duality_gap(self, log_policy: FloatArray) -> float:
        """max_p' J(p', p) - min_q' J(p, q') = 2 beta KL(p || BR(p)), which is never negative.

        Zero exactly at the regularised equilibrium; in units of win probability.
        """
        return 2.0 * self.beta * kl(log_policy, self.best_response(log_policy))

    def exploitability(self, log_policy: FloatArray) -> float:
        """What one player gains by the best response, max_p' J(p', p) - 1/2: half the duality gap."""
        return self.duality_gap(log_policy) / 2.0

    def unregularised_gap(self, log_policy: FloatArray) -> float:
        """Duality gap without regularisation, 2 max_y (P p)(y) - 1; zero at a von Neumann winner."""
        return max(2.0 * float(np.max(self.win_rates(log_policy))) - 1.0, 0.0)


def _checked_preference(matrix: npt.ArrayLike) -> FloatArray:
    preference = np.array(matrix, dtype=np.float64)
    if preference.ndim != 2 or preference.shape[0] != preference.shape[1] or preference.size == 0:
        raise ValueError(f"the preference matrix must be square [n, n], n >= 1, got shape {preference.shape}")
    if np.isnan(preference).any():
        row, column = np.argwhere(np.isnan(preference))[0]
        count = int(np.isnan(preference).sum())
        raise ValueError(f"the preference matrix holds {count} NaN, the first at row {row}, column {column}")
    low, high = float(preference.min()), float(preference.max())
    if low < 0.0 or high > 1.0:
        raise ValueError(f"preferences must lie in [0, 1], got values from {low:.6g} to {high:.6g}")
    excess = np.abs(preference + preference.T - 1.0)
    row, column = np.unravel_index(int(np.argmax(excess)), excess.shape)
    if excess[row, column] > VALIDATION_TOLERANCE:
        raise ValueError(
            f"the preference matrix must satisfy P + P^T = 1 (1/2 on the diagonal), but P[{row}, {column}] = "
            f"{preference[row, column]:.6g} and P[{column}, {row}] = {preference[column, row]:.6g}; "
            "symmetrise it as (P + 1 - P^T) / 2"
        )
    return _read_only((preference + (1.0 - preference.T)) / 2.0)


def _checked_reference(log_probabilities: npt.ArrayLike, actions: int) -> FloatArray:
    reference = np.array(log_probabilities, dtype=np.float64)
    if reference.shape != (actions,):
        raise ValueError(f"the reference must be {actions} log-probabilities, got shape {reference.shape}")
    missing = ~np.isfinite(reference)
    if missing.any():
        first = int(np.argmax(missing))
        raise ValueError(
            f"the reference must have full support: {int(missing.sum())} of {actions} log-probabilities are "
            f"not finite, the first at action {first} ({reference[first]})"
        )
    log_mass = float(logsumexp(reference))
    if abs(log_mass) > VALIDATION_TOLERANCE:
        raise ValueError(
            f"the reference must be normalised log-probabilities, but sums to {np.exp(log_mass):.6g}, not 1"
        )
    return _read_only(reference - log_mass)


def _checked_beta(beta: float) -> float:
    if not (np.isfinite(beta) and beta > 0.0):
        raise ValueError(f"beta must be positive and finite, got {beta}")
    return float(beta)


def _read_only(array: FloatArray) -> FloatArray:
    array.setflags(write=False)
    return array
