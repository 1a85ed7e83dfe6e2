"""Scaling laws: formulas, one file each, and how any of them is fitted, checked and continued."""

from algorithms.scaling.annealing import ANNEALING
from algorithms.scaling.compute import COMPUTE
from algorithms.scaling.law import Law
from algorithms.scaling.loss import LOSS
from algorithms.scaling.multi_power import MULTI_POWER
from algorithms.scaling.overoptimisation import BEST_OF_N, DIRECT_ALIGNMENT, REINFORCEMENT
from algorithms.scaling.time_to_win_rate import TIME_TO_WIN_RATE

LAWS: dict[str, Law] = {
    law.name: law
    for law in (
        LOSS,
        ANNEALING,
        MULTI_POWER,
        BEST_OF_N,
        REINFORCEMENT,
        DIRECT_ALIGNMENT,
        COMPUTE,
        TIME_TO_WIN_RATE,
    )
}
"""Laws of measured outcomes by name; `power_law` makes those of tuned settings, whose factors are free."""
