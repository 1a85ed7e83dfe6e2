"""What a person asks of a table: which law, of which columns, checked how."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from algorithms.scaling.optimum import NEIGHBOURS
from workflows.scaling_law.table import TableError

Mode = Literal["min", "max"]
Curvature = Literal["own", "shared"]
"""Of the quadratics around optima: each group's own, near its best trial, or one for all trials of all groups."""
CURVE_LAWS = ("annealing", "multi_power")
"""Laws whose rows are the logged steps of runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """A setting that every group tunes, and the factors that its best value depends on."""

    setting: str
    factors: tuple[str, ...]

    @classmethod
    def parse(cls, text: str, group: tuple[str, ...]) -> "Tuned":
        """`learning_rate` (depends on what makes the groups) or `batch:D`."""
        setting, colon, factors = text.partition(":")
        if not setting or (colon and not factors):
            raise TableError(f"--tune {text!r} is not of the form setting or setting:factor,factor, such as batch:D")
        return cls(setting=setting, factors=tuple(factors.split(",")) if colon else group)


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldOut:
    """Rows kept from a fit to check it: those with the largest value of a column, or with one of these values."""

    column: str
    values: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "HoldOut":
        """`N` or `file=first,second`."""
        column, _, values = text.partition("=")
        return cls(column=column, values=tuple(values.split(",")) if values else ())


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The arguments of `fit`. `metric` and `mode` None: what the table has, and what its name says."""

    tables: tuple[Path, ...]
    where: tuple[tuple[str, str], ...] = ()
    law: str
    group: tuple[str, ...] = ()
    tuned: tuple[Tuned, ...] = ()
    metric: str | None = None
    mode: Mode | None = None
    hold_out: HoldOut | None = None
    delta: float | None = None
    curvature: Curvature = "own"
    neighbours: int = NEIGHBOURS
    fixed: tuple[tuple[str, float], ...] = ()
    warmup: int = 0
    resamples: int = 1000
    seed: int = 0
