"""Optima as measurements: groups of trials that differ in one tuned setting (and the seed), and the best of each."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from algorithms.preference import FloatArray
from algorithms.scaling.optimum import local_optimum, shared_optima
from algorithms.scaling.power_law import power_law
from workflows.scaling_law.measurements import Group, Measurements
from workflows.scaling_law.question import Mode, Question
from workflows.scaling_law.table import ALIASES, Table, TableError, check_units

SHIFTED = {"loop.eta": 1.0}
"""Added to a setting that may be 0, before its logarithm: eta + 1 batches circulate."""
SAME_LEVEL, WIDEST_LEVEL = 1.2, 2.0
"""Factor up to which neighbouring values of a factor are one level, and how wide a level may become by that."""


def optima(question: Question, table: Table, axis: int, metric: str, mode: Mode) -> Measurements:
    """The best value of one tuned setting, the one at `axis`, in every group that shows an optimum of all of them.

    Raises: `TableError` where too few do, for settings without a logarithm, and for factors that aren't levels.
    """
    by, tuned = question.group, question.tuned[axis]
    names = [table.column(each.setting) for each in question.tuned]
    setting = names[axis]
    if unknown := [name for name in tuned.factors if name not in by]:
        raise TableError(f"{setting} is to depend on {', '.join(unknown)}, which --group does not name")
    found = tuned_groups(table, by, names, metric, mode, question.neighbours)
    if question.curvature == "shared":
        found = sharing_curvature(found, mode)
    groups = [replace(group, axis=axis) for group in found]
    usable = [group for group in groups if not group.optimum.fault]
    bent = ("The quadratics of all groups have one curvature, fitted to all trials.",) * (
        question.curvature == "shared"
    )
    marked = tuple(f"Group {group.label} left out: {group.optimum.fault}." for group in groups if group.optimum.fault)
    if not usable:
        raise TableError(
            f"none of the {len(groups)} groups shows an optimum of {setting}; {groups[0].label}: "
            f"{groups[0].optimum.fault}. Widen the grid of {setting} and run the missing trials"
        )
    law = power_law(tuned.factors, outcome=setting)
    if len(usable) <= len(law.parameters):
        raise TableError(
            f"the law of {setting} has {len(law.parameters)} parameters and {len(usable)} of {len(groups)} groups show "
            f"an optimum; it needs {len(law.parameters) + 1}. " + " ".join(marked)
        )
    return Measurements(
        law=law,
        factors={name: np.array([group.factors[name] for group in usable]) for name in tuned.factors},
        outcome=np.array([float(group.optimum.setting[axis]) for group in usable]),
        labels=[group.label for group in usable],
        groups=tuple(groups),
        notes=(*bent, *marked),
    )


def tuned_groups(
    table: Table, by: tuple[str, ...], names: Sequence[str], metric: str, mode: Mode, neighbours: int
) -> list[Group]:
    """The groups that `by` makes, in order of their factors; `neighbours` as in `local_optimum`."""
    factors = {name: table.numbers(name) for name in by}
    sizes = {ALIASES.get(name, name): values for name, values in factors.items()}
    if "model_parameters" in sizes:
        check_units(table, sizes["model_parameters"], sizes.get("tokens"))
    outcomes = table.numbers(metric)
    settings = np.stack([_setting(table, name) for name in names], axis=1)
    found = {name: levels(values, name) for name, values in factors.items()}
    keys = np.stack([number for _, number in found.values()], axis=1)
    groups = []
    for key in np.unique(keys, axis=0):
        rows = (keys == key).all(axis=1)
        at = {name: float(centres[place]) for (name, (centres, _)), place in zip(found.items(), key, strict=True)}
        best = local_optimum(settings[rows], outcomes[rows], mode == "max", neighbours)
        label = ", ".join(f"{name} {value:.3g}" for name, value in at.items())
        groups.append(
            Group(label=label, factors=at, settings=settings[rows], outcomes=outcomes[rows], optimum=best, axis=0)
        )
    return groups


def sharing_curvature(groups: Sequence[Group], mode: Mode) -> list[Group]:
    """The same groups with the optima that one curvature of all of them gives."""
    found = shared_optima([(group.settings, group.outcomes) for group in groups], mode == "max")
    return [replace(group, optimum=optimum) for group, optimum in zip(groups, found, strict=True)]


def _setting(table: Table, name: str) -> FloatArray:
    values = table.numbers(name) + SHIFTED.get(name, 0.0)
    if len(rows := np.flatnonzero(values <= 0.0)):
        raise TableError(f"{table.places[rows[0]]}: {name} = {values[rows[0]]:g}, and its law is one of logarithms")
    return values


def levels(values: FloatArray, name: str) -> tuple[FloatArray, npt.NDArray[Any]]:
    """Levels of a factor (geometric means) and the level [n] of each value: tokens of like runs are never quite equal.

    Raises: `TableError` where values lie so close that levels run into each other.
    """
    if (values <= 0.0).any():
        raise TableError(f"{name} is {values.min():g} in one row, and laws need factors above 0")
    order = np.argsort(values)
    number = np.zeros(len(values), dtype=np.int64)
    number[order] = np.concatenate([[0], np.cumsum(np.diff(np.log(values[order])) > np.log(SAME_LEVEL))])
    spans = [values[number == place] for place in range(int(number.max()) + 1)]
    for span in spans:
        if span.max() > WIDEST_LEVEL * span.min():
            raise TableError(
                f"{name} takes values all the way from {span.min():.4g} to {span.max():.4g}, which make no groups: "
                "group by something that was set, such as loop.steps"
            )
    return np.array([np.exp(np.log(span).mean()) for span in spans]), number
