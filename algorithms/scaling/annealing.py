"""Loss under any learning-rate schedule: L = L0 + A S1^-alpha - C S2. Tissue et al. 2408.11029.

S1 is the sum of the rates so far, S2 the momentum of their decline. Both follow from the schedule alone, so that a law
fitted on one or two runs predicts the loss curve of a schedule that was never run.
"""

from collections.abc import Iterator

import numpy as np
from scipy.signal import lfilter

from algorithms.preference import FloatArray
from algorithms.scaling.law import Factors, Law, Parameters, amplitudes, parameters_named

DECAY = 0.999
"""lambda, how slowly the momentum of a decline is forgotten; the paper has 0.99 to 0.999."""


def rates_of_every_step(steps: FloatArray, rates: FloatArray, warmup: int = 0) -> FloatArray:
    """[last step + 1] rates of steps 0, 1, ... from a log of `rates` at increasing `steps`, straight lines between.

    What the log lacks of the first `warmup` steps climbs linearly from 0 to the first logged rate.
    """
    every = np.arange(int(steps[-1]) + 1)
    filled: FloatArray = np.interp(every, steps, rates)
    unlogged = min(warmup, int(steps[0]))
    filled[:unlogged] = rates[0] * every[:unlogged] / max(unlogged, 1)
    return filled


def annealing_factors(rates: FloatArray, steps: FloatArray, warmup: int = 0, decay: float = DECAY) -> Factors:
    """S1 and S2 [n] at `steps` [n] of a run with `rates` [T] of steps 0, 1, ...

    S1 = sum_{i <= s} eta_i and S2 = sum_{i <= s} m_i with m_i = lambda m_{i-1} + (eta_{i-1} - eta_i). During warm-up
    m is 0: its rises are no annealing, and would make S2 negative.
    """
    declines = np.concatenate([[0.0], rates[:-1] - rates[1:]])
    declines[: warmup + 1] = 0.0
    momentum = lfilter([1.0], [1.0, -decay], declines)
    at = steps.astype(np.int64)
    return {"S1": np.cumsum(rates)[at], "S2": np.cumsum(momentum)[at]}


def predict(parameters: Parameters, factors: Factors) -> Parameters:
    """Losses [n] at S1, S2 [n]."""
    L0, A, alpha, C = parameters
    return np.asarray(L0 + A * factors["S1"] ** -alpha - C * factors["S2"])


def starts(factors: Factors, outcome: FloatArray) -> Iterator[FloatArray]:
    """The paper's range of alpha, with the amplitudes that then fit best."""
    for alpha in (0.2, 0.4, 0.6, 0.9, 1.2):
        L0, A, C = amplitudes([np.ones(len(outcome)), factors["S1"] ** -alpha, -factors["S2"]], outcome)
        yield np.array([L0, A, alpha, C])


ANNEALING = Law(
    name="annealing",
    formula="loss = L0 + A S1^-alpha - C S2",
    source="Tissue et al. 2408.11029",
    factors=("S1", "S2"),
    outcome="loss",
    parameters=parameters_named("L0", "A", "alpha", "C"),
    predict=predict,
    starts=starts,
)
