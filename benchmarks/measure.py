"""Repeated measurements of things that take turns, and the ratios of what belongs to the same turn."""

import time
from collections.abc import Callable, Mapping, Sequence

Measurement = Callable[[int], float]
"""`measurement(turn)`: one value; the turn, from 0, can serve as a seed."""


def take_turns(measurements: Mapping[str, Measurement], turns: int) -> dict[str, list[float]]:
    """Values by name from A B A B ...; what warms up has to be done before."""
    values: dict[str, list[float]] = {name: [] for name in measurements}
    for turn in range(turns):
        for name, measurement in measurements.items():
            values[name].append(measurement(turn))
    return values


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """ours / theirs, turn by turn."""
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def seconds(action: Callable[[], object]) -> float:
    """How long `action` takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began
