"""Two ways of selecting, compared on the same prompts with the same number of candidates."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from algorithms.intervals import Interval, WinRate, mean_interval, win_rate_interval


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedComparison:
    """What Q prompts say of a first way against a second.

    `win_rate`: a tie counts 1/2. `gain`: mean difference of the scores. The intervals of both resample prompts, each
    of which brings both scores. `sign_p`: two-sided sign test of the decided prompts; 1 where none is.
    """

    wins: int
    losses: int
    ties: int
    win_rate: WinRate
    gain: Interval
    sign_p: float

    @property
    def decided_rate(self) -> float:
        """wins / (wins + losses), the figure that is usually published; NaN where every prompt is a tie."""
        return self.wins / (self.wins + self.losses) if self.wins + self.losses else float("nan")


def compare(
    first: npt.ArrayLike, second: npt.ArrayLike, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> PairedComparison:
    """Compare scores [Q] of two ways, prompt by prompt; higher is better, equal scores are a tie."""
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.shape != other.shape or one.ndim != 1 or not len(one):
        raise ValueError(f"a paired comparison needs two scores for each prompt, got {one.shape} and {other.shape}")
    difference = one - other
    if not np.isfinite(difference).all():
        raise ValueError("a paired comparison needs finite scores; leave out prompts where either way failed")
    wins, losses = int((difference > 0.0).sum()), int((difference < 0.0).sum())
    return PairedComparison(
        wins=wins,
        losses=losses,
        ties=len(difference) - wins - losses,
        win_rate=win_rate_interval((np.sign(difference) + 1.0) / 2.0, confidence, resamples, seed),
        gain=mean_interval(difference, confidence, resamples, seed),
        sign_p=float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0,
    )
