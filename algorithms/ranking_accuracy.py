"""Does a policy give its preferred answers more probability, and how often could it at best?

Not the accuracy of implicit rewards that trainers log, which compares with the reference (Chen et al. 2024, arXiv
2405.19534). Everything is in log space; log-probabilities are sums over an answer's tokens, in nats.
"""

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def ranking_accuracy(
    chosen: npt.ArrayLike, rejected: npt.ArrayLike, lengths: tuple[npt.ArrayLike, npt.ArrayLike] | None = None
) -> float:
    """R = E 1[log pi(chosen) >= log pi(rejected)], [n], [n]; with `lengths` in tokens, of the means per token."""
    first, second = _finite(chosen), _finite(rejected)
    if lengths is not None:
        first, second = first / _finite(lengths[0]), second / _finite(lengths[1])
    return float((first >= second).mean())


def idealised_margin(
    reference_chosen: npt.ArrayLike,
    reference_rejected: npt.ArrayLike,
    agreeing: npt.ArrayLike,
    beta: float,
    epsilon: float = 1e-3,
) -> FloatArray:
    """log pi*(chosen) - log pi*(rejected) of the policy that fits the preferences perfectly, [n].

    log ref(chosen) - log ref(rejected) + (1 / beta) log(a / (1 - a)), where a share a of the raters (`agreeing`, [n]
    or one number) prefers the chosen answer; a is kept in [epsilon, 1 - epsilon].
    """
    if beta <= 0.0:
        raise ValueError(f"beta has to be positive, got {beta}")
    share = np.clip(np.asarray(agreeing, dtype=np.float64), epsilon, 1.0 - epsilon)
    margin = _finite(reference_chosen) - _finite(reference_rejected) + (np.log(share) - np.log1p(-share)) / beta
    return np.asarray(margin, dtype=np.float64)


def idealised_accuracy(
    reference_chosen: npt.ArrayLike,
    reference_rejected: npt.ArrayLike,
    agreeing: npt.ArrayLike,
    beta: float,
    epsilon: float = 1e-3,
) -> float:
    """R* = E 1[idealised margin > 0]: the ranking accuracy that perfect optimisation would reach."""
    return float((idealised_margin(reference_chosen, reference_rejected, agreeing, beta, epsilon) > 0.0).mean())


def _finite(values: npt.ArrayLike) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size or not np.isfinite(array).all():
        raise ValueError(f"need one finite number a pair, at least one; got shape {array.shape}")
    return array
