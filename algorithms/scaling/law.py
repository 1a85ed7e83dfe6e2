"""What a scaling law is: a formula of named factors with named parameters, and where to begin looking for them.

A law knows nothing of tables, grids or noise: `algorithms/scaling/fit.py` fits any of them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from algorithms.preference import FloatArray

Factors = Mapping[str, FloatArray]
"""Values by factor, each [n] or [n, ...]: the first axis is that of the measurements."""
Parameters = npt.NDArray[Any]
"""[P] values of a law's parameters; complex where a derivative is taken (`fit.gradient`)."""

SMALLEST_AMPLITUDE = 1e-6
"""Of the outcome: where a positive amplitude starts that linear least squares would make negative."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A parameter of a law; a positive one is fitted, and its interval made, as its logarithm."""

    name: str
    positive: bool = True


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Law:
    """outcome = predict(parameters, factors) + noise; on logarithms where the law is `logarithmic`.

    `predict` maps parameters [P] and factors of n measurements to outcomes [n], analytically: it takes complex
    parameters. `starts` yields parameters [P] from which a fit of factors and outcomes [n] may begin.
    """

    name: str
    formula: str
    source: str
    factors: tuple[str, ...]
    outcome: str
    parameters: tuple[Parameter, ...]
    predict: Callable[[Parameters, Factors], Parameters]
    starts: Callable[[Factors, FloatArray], Iterator[FloatArray]]
    logarithmic: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters, in order."""
        return tuple(parameter.name for parameter in self.parameters)

    @property
    def positive(self) -> npt.NDArray[np.bool_]:
        """[P], which parameters are positive."""
        return np.array([parameter.positive for parameter in self.parameters])


def parameters_named(*names: str, real: Sequence[str] = ()) -> tuple[Parameter, ...]:
    """Parameters of these names, positive but for those in `real`."""
    return tuple(Parameter(name=name, positive=name not in real) for name in names)


def joined(runs: Sequence[Factors]) -> Factors:
    """The factors of several runs, one after another."""
    return {name: np.concatenate([run[name] for run in runs]) for name in runs[0]}


def amplitudes(columns: Sequence[FloatArray], outcome: FloatArray) -> FloatArray:
    """[C] positive factors of `columns` whose sum comes near `outcome` [n]: where a fit may begin.

    Least squares relative to the outcome; what would be negative starts at nearly nothing.
    """
    scale = np.abs(outcome) + 1e-12
    solution = np.linalg.lstsq(np.stack(columns, axis=1) / scale[:, None], outcome / scale, rcond=None)[0]
    sizes = np.array([np.abs(column).mean() for column in columns])
    smallest = SMALLEST_AMPLITUDE * float(np.abs(outcome).mean()) / np.maximum(sizes, 1e-300)
    return np.asarray(np.maximum(solution, smallest))
