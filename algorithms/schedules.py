"""Learning-rate schedules as a factor of the peak rate.

Every schedule is one function of progress p = (step - warmup) / (total - warmup) in [0, 1]; warm-up and floor are the
same for all. A curve made elsewhere, such as that of `refined_curve`, is a schedule like any other.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.ndimage import median_filter

from algorithms.preference import FloatArray

ScheduleKind = Literal["constant", "linear", "cosine", "wsd", "rex", "curve"]
DecayShape = Literal["sqrt", "linear", "exponential"]

EXPONENTIAL_END = 0.1
"""Share of the peak at which a WSD's exponential decay arrives when it has no floor: it never reaches zero."""


def learning_rate_factor(
    step: int,
    total: int,
    warmup: int,
    kind: ScheduleKind = "constant",
    minimum: float = 0.0,
    *,
    decay_share: float = 0.2,
    decay_shape: DecayShape = "sqrt",
    rex_beta: float = 0.5,
    curve: Sequence[float] = (),
) -> float:
    """Factor in [0, 1] of step `step` = 0, 1, ... of `total`.

    The first `warmup` steps climb (step + 1) / (warmup + 1), so no step is wasted at zero and step `warmup` is at the
    peak. From there every kind but `constant` falls towards `minimum`, which later steps keep:

    - `linear`: 1 - p, optimal in the worst case for the last iterate (Defazio et al. 2310.07831);
    - `cosine`: (1 + cos(pi p)) / 2;
    - `wsd`: 1, then over the last `decay_share` of the steps after warm-up down as `decay_shape` says: with the share q
      of the decay that is done, 1 - sqrt(q), 1 - q, or minimum^q (0.1^q without a floor);
    - `rex`: (1 - p) / (b + (1 - b)(1 - p)) with b = `rex_beta`, 1/2 in the paper (2107.04197);
    - `curve`: `curve` read at p with straight lines between its points, the first at p = 0 and the last at p = 1; its
      largest value is the peak.
    """
    if step < 0 or warmup < 0 or total < max(warmup, 1):
        raise ValueError(f"need step >= 0 and 0 <= warmup <= total >= 1, got {step=}, {warmup=}, {total=}")
    if not 0.0 <= minimum <= 1.0:
        raise ValueError(f"minimum is a share of the peak in [0, 1], got {minimum}")
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = 1.0 if step >= total else (step - warmup) / (total - warmup)
    match kind:
        case "constant":
            return 1.0
        case "linear":
            decay = 1.0 - progress
        case "cosine":
            decay = (1.0 + math.cos(math.pi * progress)) / 2.0
        case "wsd":
            if decay_shape == "exponential":
                return float((minimum or EXPONENTIAL_END) ** _share_decayed(progress, decay_share))
            share = _share_decayed(progress, decay_share)
            decay = 1.0 - (math.sqrt(share) if decay_shape == "sqrt" else share)
        case "rex":
            if rex_beta <= 0.0:
                raise ValueError(f"rex_beta is positive, got {rex_beta}")
            decay = (1.0 - progress) / (rex_beta + (1.0 - rex_beta) * (1.0 - progress))
        case "curve":
            decay = _read(curve, progress)
    return minimum + (1.0 - minimum) * decay


def _share_decayed(progress: float, decay_share: float) -> float:
    """Share of the decay that is done, 0 before it begins."""
    if not 0.0 < decay_share <= 1.0:
        raise ValueError(f"decay_share is a share of the steps after warm-up in (0, 1], got {decay_share}")
    return max(0.0, 1.0 - (1.0 - progress) / decay_share)


def _read(curve: Sequence[float], progress: float) -> float:
    values = np.asarray(curve, dtype=np.float64)
    if len(values) < 2 or not np.isfinite(values).all() or values.min() < 0.0 or values.max() == 0.0:
        raise ValueError("a curve needs at least two finite values, none negative and one above 0")
    return float(np.interp(progress, np.linspace(0.0, 1.0, len(values)), values / values.max()))


def refined_curve(gradient_norms: npt.ArrayLike, smoothing: float = 0.1, exponent: float = 2.0) -> FloatArray:
    """The schedule refined from the gradient norms [T] of one full run, largest value 1 [T]; for `kind="curve"`.

    Defazio et al. 2310.07831, Algorithm 1: G is median-filtered over about smoothing * T steps; then, with
    w_t = G_t^-exponent, eta_t = w_t * sum_{p > t} w_p, so the last is 0. Equal norms give linear decay; falling norms
    delay it, which looks like a warm-up. For SGD the paper has L2 norms and exponent 2. For Adam it takes L1 norms;
    their exponent is UNCERTAIN (1 is used by some).
    """
    norms = np.asarray(gradient_norms, dtype=np.float64)
    if norms.ndim != 1 or len(norms) < 2:
        raise ValueError(f"gradient norms are one number a step, of two steps or more; got shape {norms.shape}")
    if not (np.isfinite(norms) & (norms > 0.0)).all():
        wrong = int(np.flatnonzero(~(np.isfinite(norms) & (norms > 0.0)))[0])
        raise ValueError(f"gradient norms are positive and finite, but that of step {wrong} is {norms[wrong]}")
    if not 0.0 <= smoothing < 0.5:
        raise ValueError(f"smoothing is a share of the steps in [0, 0.5), got {smoothing}")
    half = int(smoothing * len(norms)) // 2
    # The start is repeated, the end reflected: norms that grow towards the end keep growing there.
    padded = np.pad(np.pad(norms, (half, 0), mode="edge"), (0, half), mode="reflect")
    filtered = median_filter(padded, size=2 * half + 1)[half : half + len(norms)]
    weights = filtered**-exponent
    factors = weights * (weights.sum() - np.cumsum(weights))
    factors[-1] = 0.0
    return np.asarray(factors / factors.max())
