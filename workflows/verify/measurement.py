"""What a run on a known game shows: its distance to the equilibrium at every version, its step, and its delay.

Contract: pure arithmetic on exact policies; [V, C, n] are log-probabilities of V policies in C contexts with n answers,
the first of them the start. Figures are means over contexts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeVar

import numpy as np
from scipy import stats

from algorithms.games import (
    Algorithm,
    FloatArray,
    Game,
    kl,
    regularised_equilibrium,
    trajectory,
)
from algorithms.games.stability import Method, largest_stable_delay, modes
from workflows.verify.game import Match

T = TypeVar("T")
Pull = Literal["reference", "none"]
"""What an update moves towards: the regularised game's best response, or without end, as multiplicative weights do."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Curve:
    """Distances of V policies to the equilibrium, each [V].

    `gap`: regularised duality gap, `unregularised_gap`: without the pull to the reference, `average_*`: the same of the
    mean of all policies so far, all in units of win probability. `divergence`: KL(equilibrium || policy), nats.
    `win_rate`: of the policy over the reference.
    """

    gap: FloatArray
    divergence: FloatArray
    unregularised_gap: FloatArray
    win_rate: FloatArray
    average_gap: FloatArray
    average_unregularised_gap: FloatArray


def curve(match: Match, policies: FloatArray) -> Curve:
    """The distances of `policies` [V, C, n]."""
    games, averages = match.games, _running_average(policies)
    equilibria = [regularised_equilibrium(game).log_policy for game in games]
    return Curve(
        gap=_mean(games, policies, Game.duality_gap),
        divergence=_mean(equilibria, policies, kl),
        unregularised_gap=_mean(games, policies, Game.unregularised_gap),
        win_rate=_mean(games, policies, lambda game, policy: game.win_rate(policy, game.reference)),
        average_gap=_mean(games, averages, Game.duality_gap),
        average_unregularised_gap=_mean(games, averages, Game.unregularised_gap),
    )


def exact_policies(match: Match, algorithm: Algorithm, updates: int) -> FloatArray:
    """[updates + 1, C, n]: what the exact updates of `algorithm` give in every context."""
    contexts = [[state.log_policy for state in trajectory(algorithm, game, updates)] for game in match.games]
    return np.asarray(contexts, dtype=np.float64).swapaxes(0, 1)


def step_size(match: Match, policies: FloatArray, pull: Pull) -> float:
    """The eta of the mirror steps that V policies [V, C, n] come nearest to, by least squares.

    An update moves log p by eta times the field beta (log mu - log p) + P p (without the first term where nothing pulls
    to the reference), both centred and weighted by p. eta * beta is the share of the way to the regularised target that
    an update goes; section 2.5's delay rule needs it. Sampling noise cancels in the mean.
    """
    moved, size = 0.0, 0.0
    for before, after in pairwise(policies):
        for game, old, new in zip(match.games, before, after, strict=True):
            field = game.win_rates(old)
            if pull == "reference":
                field = field + game.beta * (game.reference - old)
            weight = np.exp(old)
            field = field - weight @ field
            moved += float(weight @ (field * (new - old)))
            size += float(weight @ field**2)
    return moved / size if size else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Delay:
    """How old opponents may be at a step of this size; delays are in updates of the policy."""

    rotation: float
    """s, the fastest rotation at the equilibrium of any context."""
    largest_stable: int | None
    """None: even fresh opponents let the linearised update grow, as always where nothing pulls to the reference."""


def stable_delay(match: Match, method: Method, eta: float, pull: Pull, limit: int = 64) -> Delay:
    """The largest delay at which the linearised updates still contract in every context, up to `limit`."""
    speeds = [modes(game, regularised_equilibrium(game).log_policy) for game in match.games]
    contracting = eta > 0 and pull == "reference"
    stable = [
        largest_stable_delay(method, eta, game.beta, speed, limit=limit) if contracting else None
        for game, speed in zip(match.games, speeds, strict=True)
    ]
    known = [delay for delay in stable if delay is not None]
    return Delay(
        rotation=max(float(speed[0]) for speed in speeds),
        largest_stable=min(known) if len(known) == len(stable) else None,
    )


def interval(values: Sequence[float], confidence: float = 0.95) -> dict[str, float | list[float]]:
    """Mean over seeds with Student's interval of it; a single seed has none."""
    sample = np.asarray(values, dtype=np.float64)
    found: dict[str, float | list[float]] = {"mean": float(sample.mean()), "seeds": sample.tolist()}
    if len(sample) > 1:
        error = float(stats.sem(sample)) * float(stats.t.ppf((1.0 + confidence) / 2.0, len(sample) - 1))
        found |= {"low": float(sample.mean()) - error, "high": float(sample.mean()) + error}
    return found


def _mean(contexts: Sequence[T], policies: FloatArray, distance: Callable[[T, FloatArray], float]) -> FloatArray:
    values = [[distance(context, row) for context, row in zip(contexts, policy, strict=True)] for policy in policies]
    return np.asarray(np.mean(values, axis=1), dtype=np.float64)


def _running_average(policies: FloatArray) -> FloatArray:
    """log of the mean probabilities of policies 0 .. v, [V, C, n]."""
    counts = np.arange(1, len(policies) + 1)[:, None, None]
    return np.asarray(np.log(np.exp(policies).cumsum(axis=0) / counts), dtype=np.float64)
