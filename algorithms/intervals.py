"""Confidence intervals of win rates and other means; the prompt is the unit that is resampled."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean with its confidence interval over `n` prompts."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WinRate(Interval):
    """Mean of outcomes in [0, 1] with its confidence interval over `n` prompts."""


def win_rate_interval(
    outcomes: npt.ArrayLike, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> WinRate:
    """Percentile bootstrap over prompts of outcomes [n] or [n, m] in [0, 1] (win 1, tie 1/2, loss 0).

    The m samples of a prompt are averaged first: they are not independent, so they add no prompts. If all n
    means equal one value c, resampling sees no spread. Then the probability q of an outcome other than c,
    unseen in n draws, is below 1 - (1 - confidence)^(1/n) with that confidence, and the mean lies in [c (1 -
    q), c (1 - q) + q].
    """
    values = np.asarray(outcomes, dtype=np.float64)
    if values.ndim not in (1, 2) or values.size == 0:
        raise ValueError(f"outcomes are [prompts] or [prompts, samples], not empty; got shape {values.shape}")
    if not ((values >= 0.0) & (values <= 1.0)).all():
        raise ValueError("outcomes have to be numbers in [0, 1]")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence is a share between 0 and 1, got {confidence}")
    prompts = values if values.ndim == 1 else values.mean(axis=1)
    mean, count = float(prompts.mean()), len(prompts)
    if np.ptp(prompts) == 0.0:
        mean = float(prompts[0])
        unseen = 1.0 - (1.0 - confidence) ** (1.0 / count)
        low, high = mean * (1.0 - unseen), mean * (1.0 - unseen) + unseen
    else:
        low, high = _bootstrap(prompts, confidence, resamples, seed)
    return WinRate(mean=mean, low=low, high=high, n=count)


def mean_interval(values: npt.ArrayLike, confidence: float = 0.95, resamples: int = 2000, seed: int = 0) -> Interval:
    """Percentile bootstrap over prompts of the mean of any finite values, [n], one a prompt.

    For a paired comparison give the difference of both sides on each prompt. Equal values have an interval of no
    width: without bounds on what was not seen, nothing can be said of it.
    """
    prompts = np.asarray(values, dtype=np.float64)
    if prompts.ndim != 1 or not prompts.size or not np.isfinite(prompts).all():
        raise ValueError(f"values are finite and [prompts], not empty; got shape {prompts.shape}")
    mean = float(prompts.mean())
    low, high = (mean, mean) if np.ptp(prompts) == 0.0 else _bootstrap(prompts, confidence, resamples, seed)
    return Interval(mean=mean, low=low, high=high, n=len(prompts))


def _bootstrap(prompts: npt.NDArray[np.float64], confidence: float, resamples: int, seed: int) -> tuple[float, float]:
    interval = stats.bootstrap(
        (prompts,),
        np.mean,
        n_resamples=resamples,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)
