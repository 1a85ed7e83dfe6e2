"""The search space: which keys of a run vary over what, and the points that need no result of an earlier one.

Contract: a point is determined by the space, the method, the number of points and the seed.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator
from scipy.stats import qmc

from actors.component import Component

SIGNIFICANT_DIGITS = 6
"""Of a real value: more would only make tables hard to read."""

Point = dict[str, Any]
"""Values by dotted key of the run's configuration."""


class Axis(Component):
    """One varied key: listed values, or a range that includes both of its ends."""

    values: tuple[Any, ...] | None = Field(default=None, min_length=1)
    low: float | None = None
    high: float | None = None
    log: bool = False
    """Equal factors are equally far apart, as learning rates are."""
    integer: bool = False
    points: int | None = Field(default=None, ge=2)
    """Values of a grid in the range."""

    @model_validator(mode="after")
    def _values_or_range(self) -> "Axis":
        if self.values is not None:
            if any(value is not None for value in (self.low, self.high, self.points)) or self.log or self.integer:
                raise ValueError("give either values, or a range (low, high, log, integer, points), not both")
            return self
        if self.low is None or self.high is None:
            raise ValueError("give values: [...], or a range with low and high")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"the range from {self.low:g} to {self.high:g} is empty; low has to be below high")
        if self.log and self.low <= 0:
            raise ValueError(f"a log axis can't begin at {self.low:g}; give a low above 0, or values with 0 among them")
        if self.integer and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError(f"an integer range needs integer ends, got {self.low:g} to {self.high:g}")
        return self

    @property
    def ends(self) -> tuple[float, float]:
        """Both ends of a range."""
        assert self.low is not None
        assert self.high is not None
        return self.low, self.high

    def at(self, share: float) -> Any:
        """The value at a share in [0, 1) of the axis; uniform shares give uniform values (of the logarithm with `log`).

        An integer stands for everything that rounds to it.
        """
        if self.values is not None:
            return self.values[int(share * len(self.values))]
        low, high = self.ends
        margin = 0.5 if self.integer else 0.0
        start, end = (math.log(low - margin), math.log(high + margin)) if self.log else (low - margin, high + margin)
        found = start + share * (end - start)
        return self.exact(math.exp(found) if self.log else found)

    def grid(self) -> list[Any]:
        """The listed values, or `points` evenly spaced ones with both ends."""
        if self.values is not None:
            return list(self.values)
        assert self.points is not None
        spaced = (np.geomspace if self.log else np.linspace)(*self.ends, self.points)
        return list(dict.fromkeys(self.exact(float(value)) for value in spaced))

    def extremes(self) -> list[Any]:
        """Every listed value, or both ends: if these can be run, so can what lies between."""
        return list(self.values) if self.values is not None else [self.exact(end) for end in self.ends]

    def exact(self, value: float) -> float | int:
        """The nearest value in the range that a configuration shows."""
        low, high = self.ends
        if self.integer:
            return int(min(max(math.floor(value + 0.5), low), high))
        return min(max(float(f"{value:.{SIGNIFICANT_DIGITS}g}"), low), high)


def listed_points(
    space: Mapping[str, Axis], method: Literal["grid", "random", "sobol"], count: int | None, seed: int
) -> list[Point]:
    """The points of a method that does not look at results, in the order in which they are run.

    `grid` takes the product of all axes and no `count`. `sobol` is the scrambled sequence of Owen (SciPy): any number
    of points is more even than independent ones, a power of two most of all.
    """
    if method == "grid":
        return [_point(space, values) for values in itertools.product(*(axis.grid() for axis in space.values()))]
    assert count is not None
    shares = _sobol(len(space), count, seed) if method == "sobol" else _uniform(len(space), count, seed)
    return [_point(space, [axis.at(u) for axis, u in zip(space.values(), row, strict=True)]) for row in shares]


def probes(space: Mapping[str, Axis]) -> list[Point]:
    """Points in which every extreme of every axis occurs once, the other axes at their first."""
    first = {key: axis.extremes()[0] for key, axis in space.items()}
    return [first, *(first | {key: value} for key, axis in space.items() for value in axis.extremes()[1:])]


def _point(space: Mapping[str, Axis], values: Sequence[Any]) -> Point:
    return dict(zip(space, values, strict=True))


def _uniform(axes: int, count: int, seed: int) -> list[list[float]]:
    shares: list[list[float]] = np.random.default_rng(seed).random((count, axes)).tolist()
    return shares


def _sobol(axes: int, count: int, seed: int) -> list[list[float]]:
    """The first `count` of the smallest power of two: the sequence is built for those."""
    power = max(count - 1, 0).bit_length()
    shares: list[list[float]] = qmc.Sobol(axes, rng=np.random.default_rng(seed)).random_base2(power)[:count].tolist()
    return shares
