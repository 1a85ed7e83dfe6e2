"""Loss curves as measurements: the rate of every step is rebuilt from the log, and turned into the law's factors."""

import numpy as np

from algorithms.preference import FloatArray
from algorithms.scaling.annealing import annealing_factors, rates_of_every_step
from algorithms.scaling.law import Factors, Law, joined
from algorithms.scaling.multi_power import multi_power_factors
from algorithms.win_rates import IndexArray
from workflows.scaling_law.measurements import Measurements
from workflows.scaling_law.table import FILE, Table, TableError

RATES = ("lr", "learning_rate")
MOST_ROWS = 100
"""Logged steps of a run that the multi-power law is fitted to, evenly spaced: it is costly, neighbours are alike."""


def curves(table: Table, law: Law, metric: str, by: tuple[str, ...], warmup: int) -> Measurements:
    """Every logged step of every run (as `by` names them, or the files) from the end of warm-up on.

    Raises: `TableError` for columns that lack, and for a run whose steps don't increase.
    """
    rate = next((name for name in RATES if table.has(name)), RATES[0])
    steps, rates, losses = table.numbers("step"), table.numbers(rate), table.numbers(metric)
    labels = [", ".join(map(str, row)) for row in table.labels(by or (FILE,))]
    factors, kept = [], []
    for run in dict.fromkeys(labels):
        rows = np.flatnonzero([label == run for label in labels])
        _check_steps(table, steps, rows, run)
        late = rows[steps[rows] >= warmup]
        if not len(late):
            raise TableError(f"run {run} ends at step {steps[rows[-1]]:g}, within its warm-up of {warmup} steps")
        if law.name == "multi_power":
            late = late[np.unique(np.linspace(0, len(late) - 1, min(MOST_ROWS, len(late))).astype(np.int64))]
        every = rates_of_every_step(steps[rows], rates[rows], warmup)
        factors.append(factors_of(law, every, steps[late], warmup))
        kept.append(late)
    rows = np.concatenate(kept)
    early = int((steps < warmup).sum())
    return Measurements(
        law=law,
        factors=joined(factors),
        outcome=losses[rows],
        labels=[labels[row] for row in rows],
        steps=steps[rows],
        notes=(f"{early} logged steps of warm-up left out.",) if early else (),
    )


def factors_of(law: Law, rates: FloatArray, steps: FloatArray, warmup: int) -> Factors:
    """The factors of a law of curves at `steps` [n] of a run with `rates` [T] of every step."""
    if law.name == "annealing":
        return annealing_factors(rates, steps, warmup)
    return multi_power_factors(rates, steps)


def _check_steps(table: Table, steps: FloatArray, rows: IndexArray, run: str) -> None:
    falls = np.flatnonzero(np.diff(steps[rows]) <= 0.0)
    if len(falls):
        row = int(rows[falls[0] + 1])
        raise TableError(
            f"{table.places[row]}: step {steps[row]:g} of run {run} does not come after the one before it; if one file "
            "holds several runs, name the column that tells them apart with --group"
        )
