"""What a law is fitted to, whatever the table was."""

from dataclasses import dataclass, field

import numpy as np

from algorithms.preference import BoolArray, FloatArray
from algorithms.scaling.law import Factors, Law
from algorithms.scaling.optimum import Optimum


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Group:
    """Trials of one size and data: settings [n, k] and outcomes [n], and the optimum they show.

    `axis` is the place of the setting that a law is asked for.
    """

    label: str
    factors: dict[str, float]
    settings: FloatArray
    outcomes: FloatArray
    optimum: Optimum
    axis: int

    def along(self, values: FloatArray) -> FloatArray:
        """[m] outcomes that the quadratic has where the setting takes `values` [m] and the others are at their best."""
        settings = np.tile(self.optimum.setting, (len(values), 1))
        settings[:, self.axis] = values
        return self.optimum.at(settings)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measurements:
    """n outcomes of a law, each with the label of the run or group that is resampled as a whole.

    `groups` are those whose optima the outcomes are, with those left out; `steps` [n], where the rows are those of loss
    curves; `notes`, what a reader should know about rows that were left out.
    """

    law: Law
    factors: Factors
    outcome: FloatArray
    labels: list[str]
    groups: tuple[Group, ...] = ()
    steps: FloatArray = field(default_factory=lambda: np.zeros(0))
    notes: tuple[str, ...] = ()

    def take(self, rows: BoolArray) -> tuple[Factors, FloatArray]:
        """Factors and outcomes of these rows [n]."""
        return {name: values[rows] for name, values in self.factors.items()}, self.outcome[rows]
