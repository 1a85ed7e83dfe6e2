"""Local theory at the regularised equilibrium: rotation speeds, stability factors and the delay rule.

Contract: pure arithmetic on a step size, a temperature and the modes s_k; `spectral_radius` is exact for the
linearised map, `delay_limit` and `safe_delay` are its small-step approximation.

The derivative of the win rates by the logits at pi* is A = P (diag pi* - pi* pi*^T), whose eigenvalues are
+- i s_k with s_k <= 1 / (2 sqrt 2) for every preference game.  A mode with rotation s evolves as
    OMD:   theta_{t+1} = a theta_t + i eta s theta_{t-d},   a = 1 - eta beta
    EGPO:  h_t = a theta_t + i eta s theta_{t-d},   theta_{t+1} = a theta_t + i eta s h_{t-d}
and for small steps OMD is stable iff eta s^2 (d + 1/2) < beta, EGPO iff eta s^2 (d - 1/2) < beta: one update
of staleness costs exactly what the extragradient step gains.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from algorithms.games.game import FloatArray, Game

Method = Literal["omd", "egpo"]

LARGEST_ROTATION = 1.0 / (2.0 * np.sqrt(2.0))
"""No preference game has a mode with a larger s."""


def modes(game: Game, log_equilibrium: FloatArray) -> FloatArray:
    """The rotation speeds s_k >= 0 at the equilibrium, largest first: one for each pair +- i s_k, [n // 2].

    With an even number of actions the last is 0, the mode that does not rotate.
    """
    root = np.exp(0.5 * log_equilibrium)
    antisymmetric = root[:, None] * (game.preference - 0.5) * root[None, :]
    project = np.eye(game.actions) - np.outer(root, root)
    eigenvalues = np.linalg.eigvalsh(1j * (project @ antisymmetric @ project))
    return np.asarray(np.maximum(eigenvalues[::-1][: game.actions // 2], 0.0), dtype=np.float64)


def omd_factor(step_size: float, beta: float, s: npt.ArrayLike) -> FloatArray:
    """|1 - eta beta + i eta s|: the factor by which OMD shrinks a mode in one update; elementwise in s."""
    factor = 1.0 - step_size * beta + 1j * step_size * np.asarray(s, dtype=np.float64)
    return np.asarray(np.abs(factor), dtype=np.float64)


def egpo_factor(step_size: float, beta: float, s: npt.ArrayLike) -> FloatArray:
    """|(1 - eta beta)(1 + i eta s) - eta^2 s^2|: the factor of EGPO; below 1 whenever eta s < 1."""
    turn = step_size * np.asarray(s, dtype=np.float64)
    factor = (1.0 - step_size * beta) * (1.0 + 1j * turn) - turn**2
    return np.asarray(np.abs(factor), dtype=np.float64)


def spectral_radius(
    method: Method,
    step_size: float,
    beta: float,
    s: npt.ArrayLike,
    *,
    delay: int = 0,
    extrapolation: float = 0.0,
) -> float:
    """Exact spectral radius over the modes s of the linearised update with opponents `delay` updates old.

    `extrapolation` as in `delay.Delayed`.  A radius below 1 means local convergence at that factor an update.
    """
    speeds = np.atleast_1d(np.asarray(s, dtype=np.float64))
    return max(_radius(method, step_size, beta, float(speed), delay, extrapolation) for speed in speeds)


def largest_stable_delay(
    method: Method, step_size: float, beta: float, s: npt.ArrayLike, *, limit: int = 64
) -> int | None:
    """The largest d <= limit with a spectral radius below 1 at every delay up to d; None if d = 0 has not."""
    stable: int | None = None
    for delay in range(limit + 1):
        if spectral_radius(method, step_size, beta, s, delay=delay) >= 1.0:
            break
        stable = delay
    return stable


def delay_limit(method: Method, step_size: float, beta: float, s: float) -> float:
    """The delay rule: d must stay below beta / (eta s^2) - 1/2 (OMD) or + 1/2 (EGPO), in updates."""
    _check(method, step_size, beta)
    ratio = float("inf") if s == 0.0 else beta / (step_size * s * s)
    return ratio + (0.5 if method == "egpo" else -0.5)


def safe_delay(method: Method, step_size: float, beta: float) -> float:
    """`delay_limit` at the fastest rotation of any preference game: 8 beta / eta - 1/2 (OMD) or + 1/2 (EGPO).

    A small-step rule: for eta near 1 it can be half an update too generous, and it means nothing for EGPO
    once eta * LARGEST_ROTATION > 1; `largest_stable_delay` at `LARGEST_ROTATION` is exact.
    """
    return delay_limit(method, step_size, beta, float(LARGEST_ROTATION))


def _radius(method: Method, eta: float, beta: float, s: float, delay: int, extrapolation: float) -> float:
    """Largest root of the characteristic polynomial of one mode, in powers of z (one z an update).

    With a = 1 - eta beta and g(z) = i eta s ((1 + k) z - k) / z^(d+1), the observation of a signal through
    delay and extrapolation, OMD is z = a + g and EGPO z = a + g (a + g).
    """
    _check(method, eta, beta)
    decay = 1.0 - eta * beta
    order = delay + 1 if extrapolation else delay
    # Coefficients with the lowest power first; `seen` is z^order g(z).
    seen = 1j * eta * s * np.array([-extrapolation, 1.0 + extrapolation] if extrapolation else [1.0])
    if method == "omd":
        polynomial = np.append(np.zeros(order, dtype=np.complex128), [-decay, 1.0])
        polynomial[: len(seen)] -= seen
    else:
        polynomial = np.append(np.zeros(2 * order, dtype=np.complex128), [-decay, 1.0])
        polynomial[order : order + len(seen)] -= decay * seen
        squared = np.convolve(seen, seen)
        polynomial[: len(squared)] -= squared
    return float(np.max(np.abs(np.roots(polynomial[::-1])), initial=0.0))


def _check(method: str, step_size: float, beta: float) -> None:
    if method not in ("omd", "egpo"):
        raise ValueError(f"the method must be 'omd' or 'egpo', got {method!r}")
    if not (step_size > 0.0 and beta > 0.0):
        raise ValueError(f"step size and beta must be positive, got {step_size} and {beta}")
