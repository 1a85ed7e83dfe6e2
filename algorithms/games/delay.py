"""Stale opponents: an algorithm whose win rates were measured against policies d updates old.

Contract: the mirror step starts from the newest policy, only the opponents are old; with delay 0 and no
extrapolation the wrapped algorithm is unchanged.  While fewer than d updates are done, the oldest opponent
stands in.

With `extrapolation` k the win rates seen in a role are r_{t-d} + k (r_{t-d} - r_{t-d-1}): k = d undoes the
delay to first order, k = d + 1 adds one step of optimism as well (`delay_compensated`).  It needs win rates
under two consecutive old policies and amplifies label noise by about 2k + 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from algorithms.games.game import FloatArray, Game
from algorithms.games.updates import Algorithm, Observe, OnlineMirrorDescent, State, StepSize, Wrapper


@dataclass(frozen=True, kw_only=True)
class Delayed(Wrapper):
    """`inner` with every opponent `delay` updates old, optionally extrapolated by `extrapolation` updates."""

    delay: int
    extrapolation: float = 0.0

    def __post_init__(self) -> None:
        if self.delay < 0:
            raise ValueError(f"the delay must be 0 or more updates, got {self.delay}")
        if not (np.isfinite(self.extrapolation) and self.extrapolation >= 0.0):
            raise ValueError(f"the extrapolation must be 0 or more updates, got {self.extrapolation}")
        if not self.innermost.roles:
            name = type(self.innermost).__name__
            raise ValueError(f"{name} has no opponent apart from its own pairs, so none can be delayed")
        layer: Algorithm = self.inner
        while isinstance(layer, Wrapper):
            if isinstance(layer, Delayed):
                raise ValueError(f"the algorithm is already delayed by {layer.delay} updates")
            layer = layer.inner

    def advance(self, game: Game, state: State, observe: Observe) -> State:
        """See `Algorithm.advance`."""
        histories: dict[str, FloatArray] = {}

        def delayed(role: str, log_opponent: FloatArray) -> FloatArray:
            key = f"delayed_{role}"
            fresh = observe(role, log_opponent)[None, :]
            history = np.concatenate([state.memory[key], fresh]) if key in state.memory else fresh
            histories[key] = history = history[-(self.delay + 2) :]
            newest_allowed = max(len(history) - 1 - self.delay, 0)
            seen, before = history[newest_allowed], history[max(newest_allowed - 1, 0)]
            return np.asarray(seen + self.extrapolation * (seen - before), dtype=np.float64)

        result = self.inner.advance(game, state, delayed)
        return replace(result, memory={**result.memory, **histories})


def delay_compensated(*, step_size: StepSize, delay: int) -> Delayed:
    """Optimistic mirror descent that looks past the delay: r_{t-d} + (d + 1) (r_{t-d} - r_{t-d-1}).

    One evaluation a step; works while eta s (d + 1) stays below about 1/2 (`stability.spectral_radius`).
    """
    return Delayed(inner=OnlineMirrorDescent(step_size=step_size), delay=delay, extrapolation=delay + 1.0)
