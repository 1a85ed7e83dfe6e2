"""Intervals that need no model of the noise: fits to whole groups drawn again."""

from collections.abc import Hashable, Iterable
from dataclasses import replace

import numpy as np

from algorithms.preference import FloatArray
from algorithms.scaling.fit import Fit
from algorithms.scaling.law import Factors
from algorithms.scaling.problem import Problem


def bootstrap(
    fit: Fit, factors: Factors, outcome: FloatArray, groups: Iterable[Hashable], resamples: int = 1000, seed: int = 0
) -> Fit:
    """The same fit with the parameters of fits to groups drawn with replacement: [R, P] in `resampled`.

    `factors` and `outcome` [n] are those of the fit; `groups` [n] names the run, or the size and data, that a
    measurement belongs to: its rows are not independent. Draws that leave fewer distinct measurements than fitted
    parameters, or parameters untold or without bound, give nothing and are not replaced.
    """
    labels = list(groups)
    if len(labels) != len(outcome):
        raise ValueError(f"every measurement belongs to a group: {len(labels)} labels, {len(outcome)} measurements")
    members = [np.flatnonzero([label == name for label in labels]) for name in dict.fromkeys(labels)]
    generator = np.random.default_rng(seed)
    rows: list[FloatArray] = []
    free = np.array(fit.free)
    for _ in range(resamples):
        drawn = generator.integers(len(members), size=len(members))
        chosen = np.concatenate([members[place] for place in drawn])
        if len(np.unique(chosen)) < free.sum():
            continue
        drawn_factors = {name: values[chosen] for name, values in factors.items()}
        problem = Problem(fit.law, drawn_factors, outcome[chosen], free, fit.parameters)
        with np.errstate(all="ignore"):
            if problem.singular(fit.parameters) is None:
                found, _ = problem.descend(fit.parameters, fit.delta)
                rows += [found] if np.isfinite(found).all() else []
    return replace(fit, resampled=np.array(rows).reshape(-1, len(fit.parameters)))
