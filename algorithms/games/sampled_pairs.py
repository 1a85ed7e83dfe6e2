"""What pair regressions on sampled win rates converge to, in closed form.

Contract: exact expectations, no sampling.  A two-sample loss regresses a score difference d(y) - d(y') on a
label of the pair (y, y') drawn from a sampler nu; its minimiser is the label's mean against nu, so **the
implicit opponent of a two-sample loss is whatever distribution drew the pairs**.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from algorithms.games.game import FloatArray, Game

WinRateEstimator = Literal["include_self", "leave_one_out", "exclude_pair"]

_FEWEST_SAMPLES: dict[str, int] = {"include_self": 2, "leave_one_out": 2, "exclude_pair": 3}


def pair_regression(targets: npt.ArrayLike, log_sampler: FloatArray) -> FloatArray:
    """argmin_d E_{y, y' ~ nu} (d(y) - d(y') - T(y, y'))^2 with sum nu d = 0, for antisymmetric T [n, n].

    Equal to T nu; with T = P - 1/2 it is the win rates against nu minus 1/2.
    """
    matrix = np.asarray(targets, dtype=np.float64)
    if not np.allclose(matrix, -matrix.T, rtol=0.0, atol=1e-9):
        worst = float(np.max(np.abs(matrix + matrix.T)))
        raise ValueError(f"pair targets must be antisymmetric, but T + T^T reaches {worst:.3g}")
    return np.asarray(matrix @ np.exp(log_sampler), dtype=np.float64)


def expected_pair_targets(
    game: Game, log_policy: FloatArray, *, samples: int, estimator: WinRateEstimator
) -> FloatArray:
    """E[w_hat(y) - w_hat(y') | y, y' in the group] [n, n] over groups of K = `samples` draws from the policy.

    `include_self`   mean over all K, the sample's own 1/2 included (SPPO's code): unbiased as a regression.
    `leave_one_out`  mean over the other K - 1, the partner included: overshoots by K / (K - 1).
    `exclude_pair`   mean over the K - 2 outside the pair: unbiased.
    Raises ValueError when K is too small for the estimator.
    """
    if estimator not in _FEWEST_SAMPLES:
        raise ValueError(f"the estimator must be one of {sorted(_FEWEST_SAMPLES)}, got {estimator!r}")
    if samples < _FEWEST_SAMPLES[estimator]:
        raise ValueError(f"{estimator} needs {_FEWEST_SAMPLES[estimator]} samples or more, got {samples}")
    win_rates = game.win_rates(log_policy)
    others = win_rates[:, None] - win_rates[None, :]
    if estimator == "exclude_pair":
        return others
    partner = 2.0 * game.preference - 1.0
    divisor = samples if estimator == "include_self" else samples - 1
    return (partner + (samples - 2) * others) / divisor
