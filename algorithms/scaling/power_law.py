"""The law of the best setting: lr*(N, D) = c N^a D^b, batch*(D) = c D^a, and the same for beta or staleness."""

from collections.abc import Iterator, Sequence

import numpy as np

from algorithms.preference import FloatArray
from algorithms.scaling.law import Factors, Law, Parameter, Parameters

EXPONENTS = "abdefgh"
"""Names of exponents, in the order of the factors."""


def power_law(factors: Sequence[str], outcome: str = "optimum") -> Law:
    """c times a power of each factor; parameters c, then an exponent a factor (a, b, ...), of either sign.

    Step Law, Li et al. 2503.04715: lr* = 1.79 N^-0.713 D^0.307 and batch* = 0.58 D^0.571 tokens, with N non-embedding
    parameters and D tokens of pre-training. Constants of pre-training do not carry over to preference learning; the
    form and the procedure do.
    """
    names = tuple(factors)
    exponents = EXPONENTS[: len(names)]

    def predict(parameters: Parameters, values: Factors) -> Parameters:
        result = parameters[0]
        for exponent, name in zip(parameters[1:], names, strict=True):
            result = result * values[name] ** exponent
        return np.asarray(result)

    def starts(values: Factors, outcome: FloatArray) -> Iterator[FloatArray]:
        columns = np.stack([np.ones(len(outcome)), *(np.log(values[name]) for name in names)], axis=1)
        logs = np.linalg.lstsq(columns, np.log(outcome), rcond=None)[0]
        yield np.array([np.exp(logs[0]), *logs[1:]])

    return Law(
        name="step",
        formula=" ".join(
            [f"{outcome} = c", *(f"{name}^{exponent}" for name, exponent in zip(names, exponents, strict=True))]
        ),
        source="Step Law, Li et al. 2503.04715",
        factors=names,
        outcome=outcome,
        parameters=(Parameter(name="c"), *(Parameter(name=exponent, positive=False) for exponent in exponents)),
        predict=predict,
        starts=starts,
    )
