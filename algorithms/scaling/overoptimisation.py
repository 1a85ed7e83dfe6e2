"""Gold reward against the distance that optimising a proxy has moved the policy, d = sqrt(KL(pi || pi_start)).

Gao, Schulman and Hilton 2210.10760: rewards are centred, so that R(0) = 0; best-of-n and reinforcement learning have
forms of their own. Rafailov et al. 2406.02900 use the second for direct alignment, on the win rate less 1/2; that this
is exactly their form is UNCERTAIN (from memory). Its slope is infinite at 0, so points near the start don't belong in
a fit.
"""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from algorithms.preference import FloatArray
from algorithms.scaling.law import Factors, Law, Parameters, parameters_named

EVEN = 0.5
"""The win rate at distance 0."""
FORMS = ("best_of_n", "reinforcement", "direct_alignment")


def best_of_n(parameters: Parameters, factors: Factors) -> Parameters:
    """d (alpha - beta d), [n]; `KL` [n] in nats."""
    alpha, beta = parameters
    distance = np.sqrt(factors["KL"])
    return np.asarray(distance * (alpha - beta * distance))


def reinforcement(parameters: Parameters, factors: Factors) -> Parameters:
    """d (alpha - beta log d), [n]; `KL` [n] in nats, above 0."""
    alpha, beta = parameters
    distance = np.sqrt(factors["KL"])
    return np.asarray(distance * (alpha - beta * np.log(distance)))


def direct_alignment(parameters: Parameters, factors: Factors) -> Parameters:
    """Win rates 1/2 + d (alpha - beta log d), [n]."""
    return EVEN + reinforcement(parameters, factors)


def best_of_n_peak(parameters: FloatArray) -> tuple[float, float]:
    """(d*, R*) = (alpha / 2 beta, alpha^2 / 4 beta), where best-of-n is best."""
    alpha, beta = parameters.tolist()
    return alpha / (2.0 * beta), alpha**2 / (4.0 * beta)


def reinforcement_peak(parameters: FloatArray) -> tuple[float, float]:
    """(d*, R*) = (exp(alpha / beta - 1), beta d*), where more optimisation begins to hurt."""
    alpha, beta = parameters.tolist()
    distance = float(np.exp(alpha / beta - 1.0))
    return distance, beta * distance


def peak(law: Law, parameters: FloatArray) -> tuple[float, float] | None:
    """KL in nats and outcome where a law of this module is highest; None for other laws, and for one without a peak."""
    if law.name not in FORMS or (parameters <= 0.0).any():
        return None
    distance, reward = (best_of_n_peak if law.name == "best_of_n" else reinforcement_peak)(parameters)
    return distance**2, reward + (EVEN if law.name == "direct_alignment" else 0.0)


def _starts(
    predict: Callable[[Parameters, Factors], Parameters], origin: float, factors: Factors, outcome: FloatArray
) -> Iterator[FloatArray]:
    """The forms are linear in alpha and beta."""
    columns = [predict(unit, factors) - origin for unit in np.eye(2)]
    solution = np.linalg.lstsq(np.stack(columns, axis=1), outcome - origin, rcond=None)[0]
    yield np.asarray(solution, dtype=np.float64)


def _law(name: str, form: str, source: str, predict: Callable[[Parameters, Factors], Parameters]) -> Law:
    outcome, origin = ("win_rate", EVEN) if name == "direct_alignment" else ("reward", 0.0)
    return Law(
        name=name,
        formula=f"{outcome} = {form}, d = sqrt(KL)",
        source=source,
        factors=("KL",),
        outcome=outcome,
        parameters=parameters_named("alpha", "beta", real=("alpha", "beta")),
        predict=predict,
        starts=partial(_starts, predict, origin),
        logarithmic=False,
    )


BEST_OF_N = _law("best_of_n", "d (alpha - beta d)", "Gao et al. 2210.10760", best_of_n)
REINFORCEMENT = _law("reinforcement", "d (alpha - beta log d)", "Gao et al. 2210.10760", reinforcement)
DIRECT_ALIGNMENT = _law(
    "direct_alignment", "1/2 + d (alpha - beta log d)", "Rafailov et al. 2406.02900 (UNCERTAIN)", direct_alignment
)
