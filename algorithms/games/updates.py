"""Exact updates of the self-play algorithms on a preference game, in log space.

Contract: an algorithm is a frozen description; `start(game)` gives the first `State` (the policy is the
reference) and `step(game, state)` a new one, leaving its argument untouched.  Every policy is normalised
log-probabilities, and stays finite however small beta or a probability becomes.  An update with
eta * beta > 1 is refused where its form contains (1 - eta beta).

Notation: lp = log policy, mu = reference, eta = step size (a larger eta is a larger step; INPO and DNO print
its inverse), w(q) = P q the win rates against q, base(lp) = (1 - eta beta) lp + eta beta log mu.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count, islice
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from algorithms.games.game import FloatArray, Game, log_normalise

Observe = Callable[[str, FloatArray], FloatArray]
"""(role, log-probabilities of the opponent in that role) -> win rates [n] the algorithm gets to see."""


@dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """Where an algorithm stands: the policy after `updates` updates and what it remembers from earlier ones.

    log_policy: [n] log-probabilities.  memory: named arrays private to the algorithm and its wrappers.
    """

    log_policy: FloatArray
    updates: int = 0
    memory: Mapping[str, FloatArray] = field(default_factory=dict)

    def after(self, log_policy: FloatArray, **memory: FloatArray) -> State:
        """The state one update later, with `memory` merged into what is remembered."""
        return State(log_policy=log_policy, updates=self.updates + 1, memory={**self.memory, **memory})


StepSize = float | Callable[[Game, int], float]
"""A constant, or a schedule: (game, updates already done) -> eta."""


class Algorithm(ABC):
    """One self-play algorithm; `roles` names the opponents it evaluates in a step, one evaluation each."""

    roles: ClassVar[tuple[str, ...]] = ("current",)

    def start(self, game: Game) -> State:
        """The state before the first update: the reference itself."""
        return State(log_policy=game.reference)

    def step(self, game: Game, state: State) -> State:
        """One update with every opponent fresh."""
        if state.log_policy.shape != (game.actions,):
            shape = state.log_policy.shape
            raise ValueError(f"the policy has shape {shape}, the game has {game.actions} actions")
        return self.advance(game, state, lambda role, log_opponent: game.win_rates(log_opponent))

    @abstractmethod
    def advance(self, game: Game, state: State, observe: Observe) -> State:
        """One update that sees win rates only through `observe`, which may delay them."""


@dataclass(frozen=True, kw_only=True)
class SteppedAlgorithm(Algorithm):
    """An algorithm with a step size eta, constant or scheduled."""

    step_size: StepSize = 1.0

    def eta(self, game: Game, state: State) -> float:
        """The step size of the coming update; ValueError unless positive and finite."""
        eta = self.step_size(game, state.updates) if callable(self.step_size) else float(self.step_size)
        if not (np.isfinite(eta) and eta > 0.0):
            raise ValueError(f"the step size must be positive, got {eta} at update {state.updates}")
        return eta

    def base(self, game: Game, state: State) -> tuple[float, FloatArray]:
        """eta and base(lp) = (1 - eta beta) lp + eta beta log mu; ValueError when eta beta > 1."""
        eta = self.eta(game, state)
        share = eta * game.beta
        if share > 1.0 + 1e-12:
            raise ValueError(
                f"{type(self).__name__} needs eta * beta <= 1, got eta = {eta:.6g}, beta = {game.beta:.6g} "
                f"(product {share:.6g}); take eta <= {1.0 / game.beta:.6g}"
            )
        share = min(share, 1.0)
        return eta, (1.0 - share) * state.log_policy + share * game.reference


@dataclass(frozen=True, kw_only=True)
class OnlineMirrorDescent(SteppedAlgorithm):
    """OMD = INPO (2407.00617) = online IPO with uniform pairs: lp+ = base(lp) + eta w(pi)."""

    def advance(self, game: Game, state: State, observe: Observe) -> State:
        """See `Algorithm.advance`."""
        eta, base = self.base(game, state)
        return state.after(log_normalise(base + eta * observe("current", state.log_policy)))


@dataclass(frozen=True, kw_only=True)
class NashMirrorDescent(SteppedAlgorithm):
    """Nash-MD (2312.00886): log m = base(lp), lp+ = log m + eta w(m); biased at a constant eta."""

    roles: ClassVar[tuple[str, ...]] = ("mixture",)

    def advance(self, game: Game, state: State, observe: Observe) -> State:
        """See `Algorithm.advance`."""
        eta, base = self.base(game, state)
        mixture = log_normalise(base)
        return state.after(log_normalise(mixture + eta * observe("mixture", mixture)))


@dataclass(frozen=True, kw_only=True)
class MagneticMirrorDescent(SteppedAlgorithm):
    """MMD, the inner step of MPO (2410.16714): lp+ = [lp + eta beta log mu + eta w(pi)] / (1 + eta beta)."""

    def advance(self, game: Game, state: State, observe: Observe) -> State:
        """See `Algorithm.advance`."""
        eta = self.eta(game, state)
        total = state.log_policy + eta * (game.beta * game.reference + observe("current", state.log_policy))
        return state.after(log_normalise(total / (1.0 + eta * game.beta)))


@dataclass(frozen=True, kw_only=True)
class ExtraGradient(SteppedAlgorithm):
    """EGPO (2503.08942): lh = base(lp) + eta w(pi), then lp+ = base(lp) + eta w(h)."""

    roles: ClassVar[tuple[str, ...]] = ("current", "half")

    def advance(self, game: Game, state: State, observe: Observe) -> State:
        """See `Algorithm.advance`."""
        eta, base = self.base(game, state)
        half = log_normalise(base + eta * observe("current", state.log_policy))
        return state.after(log_normalise(base + eta * observe("half", half)))


@dataclass(frozen=True, kw_only=True)
class PastExtraGradient(SteppedAlgorithm):
    """Popov's form, one evaluation a step: lh = base(lp) + eta w(h_previous), lp+ = base(lp) + eta w(h)."""

    roles: ClassVar[tuple[str, ...]] = ("half",)

    def advance(self, game: Game, state: State, observe: Observe) -> State:
        """See `Algorithm.advance`; before the first update w(h_previous) is w(pi_0)."""
        eta, base = self.base(game, state)
        previous = state.memory.get("past_half_win_rates")
        if previous is None:
            previous = game.win_rates(state.log_policy)
        win_rates = observe("half", log_normalise(base + eta * previous))
        return state.after(log_normalise(base + eta * win_rates), past_half_win_rates=win_rates)


@dataclass(frozen=True, kw_only=True)
class MultiplicativeWeights(SteppedAlgorithm):
    """MWU = SPPO = SPO = DNO (2405.00675, 2401.04056, 2404.03715): lp+ = lp + eta w(pi); no pull to mu."""

    def advance(self, game: Game, state: State, observe: Observe) -> State:
        """See `Algorithm.advance`."""
        eta = self.eta(game, state)
        return state.after(log_normalise(state.log_policy + eta * observe("current", state.log_policy)))


@dataclass(frozen=True, kw_only=True)
class OptimisticMultiplicativeWeights(SteppedAlgorithm):
    """OMWU = ONPO (2502.16852): lp_t = l'_t + eta w(pi_{t-1}), l'_{t+1} = l'_t + eta w(pi_t).

    Written without the auxiliary policy: lp_{t+1} = lp_t + eta (2 w(pi_t) - w(pi_{t-1})), equal when eta is
    constant.  Before the first update w(pi_{-1}) is w(pi_0).
    """

    def advance(self, game: Game, state: State, observe: Observe) -> State:
        """See `Algorithm.advance`."""
        eta, win_rates = self.eta(game, state), observe("current", state.log_policy)
        previous = state.memory.get("past_win_rates", win_rates)
        log_policy = log_normalise(state.log_policy + eta * (2.0 * win_rates - previous))
        return state.after(log_policy, past_win_rates=win_rates)


@dataclass(frozen=True, kw_only=True)
class BestResponseIteration(Algorithm):
    """Online IPO with a fixed reference solved to the end each round: lp+ = log BR(pi).

    Contracts only where s / beta < 1 (see `stability.modes`); oscillates for small beta.
    """

    def advance(self, game: Game, state: State, observe: Observe) -> State:
        """See `Algorithm.advance`."""
        win_rates = observe("current", state.log_policy)
        return state.after(log_normalise(game.reference + win_rates / game.beta))


@dataclass(frozen=True, kw_only=True)
class Wrapper(Algorithm):
    """An algorithm around another one."""

    inner: Algorithm

    @property
    def innermost(self) -> Algorithm:
        """The algorithm at the core of a stack of wrappers."""
        return self.inner.innermost if isinstance(self.inner, Wrapper) else self.inner


@dataclass(frozen=True, kw_only=True)
class Magnet(Wrapper):
    """MPO / COMAL outer loop (2410.16714, 2410.23223): every `every` inner updates the reference becomes pi.

    Turns a solver of the regularised game into one of the unregularised game.  Inner schedules count from
    the last change of the magnet.
    """

    every: int

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"the magnet must be moved every 1 or more updates, got {self.every}")

    def advance(self, game: Game, state: State, observe: Observe) -> State:
        """See `Algorithm.advance`."""
        if state.updates % self.every == 0:
            magnet = state.log_policy if state.updates else game.reference
        else:
            magnet = state.memory["magnet"]
        counted = replace(state, updates=state.updates % self.every)
        result = self.inner.advance(game.with_reference(magnet), counted, observe)
        return replace(result, updates=state.updates + 1, memory={**result.memory, "magnet": magnet})


def trajectory(algorithm: Algorithm, game: Game, updates: int | None = None) -> Iterator[State]:
    """The start and every state after it: `updates` + 1 states, or endlessly many."""
    state = algorithm.start(game)
    yield state
    for _ in islice(count(), updates):
        state = algorithm.step(game, state)
        yield state


def average_policy(log_policies: npt.ArrayLike) -> FloatArray:
    """Log-probabilities [n] of the mean of the policies [t, n]: the iterate that MWU's guarantee is about."""
    stacked = np.asarray(log_policies, dtype=np.float64)
    if stacked.ndim != 2 or len(stacked) == 0:
        raise ValueError(f"need one or more policies [t, n] to average, got shape {stacked.shape}")
    return log_normalise(logsumexp(stacked, axis=0))
