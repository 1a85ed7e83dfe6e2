"""What a reader should know before believing a fit: parameters hardly told, told only together, or told twice."""

from itertools import combinations

from algorithms.scaling.fit import Fit

VAGUE = 10.0
"""Factor between the ends of a positive parameter's interval from which it counts as hardly known."""
TOGETHER = 0.995
"""Correlation from which two parameters are known only together."""


def doubts(fit: Fit) -> list[str]:
    """One sentence for each reason to doubt single parameters; predictions may be good all the same."""
    found = []
    for parameter, (low, high) in zip(fit.law.parameters, fit.intervals().tolist(), strict=True):
        if parameter.positive and high > VAGUE * low:
            found.append(f"{parameter.name} is hardly known: anything from {low:.3g} to {high:.3g}.")
    names = [name for name, free in zip(fit.law.names, fit.free, strict=True) if free]
    for one, other in combinations(range(len(names)), 2):
        if abs(correlation := fit.correlation[one, other]) > TOGETHER:
            found.append(
                f"{names[one]} and {names[other]} are known only together (correlation {correlation:.4f}): "
                "compare predictions, not these values."
            )
    if fit.rival is not None:
        values = ", ".join(f"{name} {value:.3g}" for name, value in zip(fit.law.names, fit.rival, strict=True))
        found.append(f"Another solution fits nearly as well: {values}.")
    return found
