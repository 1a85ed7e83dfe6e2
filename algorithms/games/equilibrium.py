"""Exact equilibria of preference games.

Contract: a policy returned here is an equilibrium to the accuracy written in its record, or
`ConvergenceError` is raised; nothing is returned that merely ran out of iterations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve
from scipy.optimize import linprog

from algorithms.games.game import FloatArray, Game, kl, log_normalise

_NEWTON_LIMIT = 60
_LARGEST_RATIO = 0.999999  # of successive temperatures, before the path is given up
_PATH_ACCURACY = 1e-6  # KL(p || BR(p)) in nats at which an intermediate temperature is left


class ConvergenceError(RuntimeError):
    """An equilibrium was not reached; the message says how near the solver came."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Equilibrium:
    """An equilibrium with its accuracy.

    log_policy: [n] log-probabilities (-inf outside the support of an unregularised equilibrium).
    gap: duality gap of the game it solves, in units of win probability.
    residual: sum_y |p(y) - BR(p)(y)| for the regularised game; max_y (P p)(y) - 1/2 for the other.
    steps: Newton steps taken, or iterations of the linear program.
    """

    log_policy: FloatArray
    gap: float
    residual: float
    steps: int


def residual_tolerance(game: Game) -> float:
    """The residual that `regularised_equilibrium` promises: 1e-12, or the rounding of P p / beta if larger.

    That rounding is about 2^-52 / beta nats in each log-probability, so 1e-12 holds down to beta = 4e-3.
    """
    return max(1e-12, 16.0 * float(np.finfo(np.float64).eps) / game.beta)


def regularised_equilibrium(game: Game) -> Equilibrium:
    """The unique pi* = BR(pi*) of the regularised game, to `residual_tolerance(game)`.

    Follows the solution from beta >= 1, where the best-response map contracts, down to the wanted beta with
    damped Newton steps.  In the coordinates sqrt(p) d log p the Newton matrix is beta I minus an
    antisymmetric matrix: never singular, however small a probability becomes.  One step costs one dense
    solve of order n + 1 (n = 1000, beta = 1e-3: about 40 steps, seconds on one core).
    Raises ConvergenceError if the tolerance is not reached.
    """
    candidate, steps = _path_to(game)
    # The best response is exact in log space where probabilities are tiny; it is kept only if no worse.
    answer = min(candidate, game.best_response(candidate), key=lambda policy: _residual(game, policy))
    residual, wanted = _residual(game, answer), residual_tolerance(game)
    if not residual <= wanted:
        raise ConvergenceError(f"the residual |p - BR(p)| stayed at {residual:.3g}, above {wanted:.3g}")
    return Equilibrium(log_policy=answer, gap=game.duality_gap(answer), residual=residual, steps=steps)


def unregularised_equilibrium(game: Game) -> Equilibrium:
    """A von Neumann winner (maximal lottery) of the game without regularisation, by linear programming.

    Solves min v subject to (P - 1/2) p <= v, p >= 0, sum p = 1, whose value is 0.  Beta and the reference
    play no part.  Where several winners exist, one vertex of their polytope is returned.
    Raises ConvergenceError if the solver fails or leaves max_y (P p)(y) - 1/2 above 1e-9.
    """
    n = game.actions
    result = linprog(
        np.append(np.zeros(n), 1.0),
        A_ub=np.hstack([game.preference - 0.5, -np.ones((n, 1))]),
        b_ub=np.zeros(n),
        A_eq=np.append(np.ones(n), 0.0)[None, :],
        b_eq=np.ones(1),
        bounds=[(0.0, None)] * n + [(None, None)],
        method="highs-ipm",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    if not result.success or result.x is None:
        raise ConvergenceError(f"the linear program of {n} actions failed: {result.message}")
    policy = np.clip(result.x[:n], 0.0, None)
    with np.errstate(divide="ignore"):
        log_policy = log_normalise(np.log(policy))
    gap = game.unregularised_gap(log_policy)
    if not gap <= 2e-9:
        raise ConvergenceError(f"the linear program of {n} actions left a duality gap of {gap:.3g}")
    return Equilibrium(log_policy=log_policy, gap=gap, residual=gap / 2.0, steps=int(result.nit))


def regularisation_bias_bound(game: Game, log_equilibrium: FloatArray) -> float:
    """Upper bound on the unregularised gap of the regularised equilibrium pi*.

    2 beta (log(1 / mu(y)) - KL(pi* || mu)), y the best pure answer to pi*; at most 2 beta log(1 / min mu).
    """
    best = int(np.argmax(game.win_rates(log_equilibrium)))
    return 2.0 * game.beta * (-float(game.reference[best]) - kl(log_equilibrium, game.reference))


def _residual(game: Game, log_policy: FloatArray) -> float:
    return float(np.sum(np.abs(np.exp(log_policy) - np.exp(game.best_response(log_policy)))))


def _path_to(game: Game) -> tuple[FloatArray, int]:
    """Follow the equilibrium from beta >= 1 to `game.beta`; a step that fails is retried shorter."""
    log_policy, steps = game.reference, 0
    solved = current = max(game.beta, 1.0)
    ratio = 0.5
    while True:
        at = game.with_beta(current)
        candidate, taken = _newton(at, log_policy, final=current <= game.beta)
        steps += taken
        if kl(candidate, at.best_response(candidate)) <= _PATH_ACCURACY:
            if current <= game.beta:
                return candidate, steps
            log_policy, solved = candidate, current
            ratio = max(ratio * ratio, 0.5)
        elif ratio > _LARGEST_RATIO:
            raise ConvergenceError(f"Newton's method stopped at beta {current:.3g} of {game.beta:.3g} wanted")
        else:
            ratio = float(np.sqrt(ratio))
        current = max(game.beta, solved * ratio)


def _newton(game: Game, log_policy: FloatArray, *, final: bool) -> tuple[FloatArray, int]:
    """Damped Newton steps on log p = log BR(p): to rounding when `final`, else to path accuracy."""
    error = kl(log_policy, game.best_response(log_policy))
    for step in range(_NEWTON_LIMIT):
        if error <= (0.0 if final else _PATH_ACCURACY):
            return log_policy, step
        direction, length = _newton_direction(game, log_policy), 1.0
        while True:
            candidate = log_normalise(log_policy + length * direction)
            candidate_error = kl(candidate, game.best_response(candidate))
            if candidate_error < error * (1.0 - 0.1 * length):
                break
            length /= 2.0
            if length < 1e-4:
                return log_policy, step + 1
        log_policy, error = candidate, candidate_error
    return log_policy, _NEWTON_LIMIT


def _newton_direction(game: Game, log_policy: FloatArray) -> FloatArray:
    """Solve (beta I - S K S) u + lambda s = -beta S r, s^T u = 0 with s = sqrt(p), S = diag(s), K = P - 1/2.

    u = s * (change of log p) and r is the residual of log p = log BR(p); the change itself is rebuilt
    without dividing by s.
    """
    n, root = game.actions, np.exp(0.5 * log_policy)
    advantage = game.preference - 0.5
    residual = log_policy - game.reference - advantage @ np.exp(log_policy) / game.beta
    residual = residual - np.exp(log_policy) @ residual
    matrix = np.zeros((n + 1, n + 1))
    matrix[:n, :n] = -root[:, None] * advantage * root[None, :]
    matrix[np.arange(n), np.arange(n)] += game.beta
    matrix[:n, n] = matrix[n, :n] = root
    right_side = np.append(-game.beta * root * residual, 0.0)
    solution = solve(matrix, right_side, overwrite_a=True, check_finite=False)
    change = (advantage @ (root * solution[:n]) - solution[n]) / game.beta
    return np.asarray(change - residual, dtype=np.float64)
