"""Learning-rate schedules as a factor of the peak rate."""

import math
from typing import Literal

ScheduleKind = Literal["constant", "linear", "cosine"]


def learning_rate_factor(
    step: int, total: int, warmup: int, kind: ScheduleKind = "constant", minimum: float = 0.0
) -> float:
    """Factor in [0, 1] of step `step` = 0, 1, ... of `total`.

    The first `warmup` steps climb (step + 1) / (warmup + 1), so no step is wasted at zero and step `warmup`
    is at the peak. From there, with p = (step - warmup) / (total - warmup), `linear` falls as 1 - p (optimal
    in the worst case for the last iterate, Defazio et al. 2310.07831) and `cosine` as (1 + cos(pi p)) / 2,
    both towards `minimum`, which later steps keep.
    """
    if step < 0 or warmup < 0 or total < max(warmup, 1):
        raise ValueError(f"need step >= 0 and 0 <= warmup <= total >= 1, got {step=}, {warmup=}, {total=}")
    if not 0.0 <= minimum <= 1.0:
        raise ValueError(f"minimum is a share of the peak in [0, 1], got {minimum}")
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if kind == "constant":
        return 1.0
    progress = 1.0 if step >= total else (step - warmup) / (total - warmup)
    decay = 1.0 - progress if kind == "linear" else (1.0 + math.cos(math.pi * progress)) / 2.0
    return minimum + (1.0 - minimum) * decay
