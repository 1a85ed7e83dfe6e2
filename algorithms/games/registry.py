"""The algorithms by name, for workflows that draw "the exact curve of algorithm X".

Contract: an unknown name, or an option the algorithm does not have, is refused with what would be accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from difflib import get_close_matches

from algorithms.games.delay import Delayed
from algorithms.games.game import Game
from algorithms.games.momentum import Momentum
from algorithms.games.online_dpo import OnlineDPO
from algorithms.games.step_sizes import decaying_step, extragradient_step, magnetic_step, optimistic_step
from algorithms.games.updates import (
    Algorithm,
    BestResponseIteration,
    ExtraGradient,
    Magnet,
    MagneticMirrorDescent,
    MultiplicativeWeights,
    NashMirrorDescent,
    OnlineMirrorDescent,
    OptimisticMultiplicativeWeights,
    PastExtraGradient,
    SteppedAlgorithm,
    StepSize,
)

STEPPED: dict[str, type[SteppedAlgorithm]] = {
    "omd": OnlineMirrorDescent,
    "inpo": OnlineMirrorDescent,
    "online_ipo": OnlineMirrorDescent,
    "nash_md": NashMirrorDescent,
    "mmd": MagneticMirrorDescent,
    "egpo": ExtraGradient,
    "past_extragradient": PastExtraGradient,
    "mwu": MultiplicativeWeights,
    "spo": MultiplicativeWeights,
    "sppo": MultiplicativeWeights,
    "dno": MultiplicativeWeights,
    "omwu": OptimisticMultiplicativeWeights,
    "onpo": OptimisticMultiplicativeWeights,
    "mpo": MagneticMirrorDescent,
    "comal": OnlineMirrorDescent,
}
SOLVED: dict[str, Algorithm] = {
    "best_response": BestResponseIteration(),
    "online_dpo": OnlineDPO(),
    "iterative_dpo": OnlineDPO(moving_reference=True),
}
MAGNETIC = frozenset({"mpo", "comal"})
"""Names whose definition includes a moving reference."""

STEP_SIZES: dict[str, Callable[[Game, int], float]] = {
    "extragradient": extragradient_step,
    "decaying": decaying_step,
    "magnetic": magnetic_step,
    "optimistic": optimistic_step,
}


def names() -> list[str]:
    """Every name `create` knows, aliases included."""
    return [*STEPPED, *SOLVED]


def create(
    name: str,
    *,
    step_size: StepSize | str | None = None,
    magnet_every: int | None = None,
    momentum: float = 0.0,
    delay: int = 0,
    extrapolation: float = 0.0,
) -> Algorithm:
    """Build an algorithm by name.

    step_size: eta, a name of `STEP_SIZES`, or a callable (game, updates) -> eta; required unless each round
    is solved to the end.  magnet_every: move the reference to the policy every so many updates (required by
    mpo and comal).  momentum: coefficient of `Momentum`.  delay, extrapolation: see `Delayed`, in updates.

    >>> create("egpo", step_size=1.0)
    ExtraGradient(step_size=1.0)
    """
    _require_known(name, names(), "algorithm")
    algorithm: Algorithm
    if name in STEPPED:
        if step_size is None:
            raise ValueError(f"{name} needs a step size: a number or one of {sorted(STEP_SIZES)}")
        if isinstance(step_size, str):
            _require_known(step_size, STEP_SIZES, "step size")
            step_size = STEP_SIZES[step_size]
        algorithm = STEPPED[name](step_size=step_size)
    elif step_size is not None:
        raise ValueError(f"{name} solves each round to the end and has no step size, got {step_size}")
    else:
        algorithm = SOLVED[name]
    if magnet_every is not None:
        algorithm = Magnet(inner=algorithm, every=magnet_every)
    elif name in MAGNETIC:
        raise ValueError(f"{name} moves its reference: say after how many updates with magnet_every")
    if momentum:
        algorithm = Momentum(inner=algorithm, coefficient=momentum)
    if delay or extrapolation:
        algorithm = Delayed(inner=algorithm, delay=delay, extrapolation=extrapolation)
    return algorithm


def _require_known(name: str, known: Collection[str], kind: str) -> None:
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown {kind} {name!r}, known are {', '.join(sorted(known))}{hint}")
