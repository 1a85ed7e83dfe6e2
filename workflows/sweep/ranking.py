"""Which trials of a table are the best, by one metric or by several."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from workflows.sweep.config import MetricConfig
from workflows.sweep.table import Row


def ranked(rows: Sequence[Row], metrics: Sequence[MetricConfig]) -> list[Row]:
    """Complete rows that have every metric, the best first by the first metric, those that another one dominates last.

    A row dominates another when it is at least as good in every metric and better in one. Censored rows have no rank.
    """
    found = [row for row in rows if row["status"] == "complete" and all(row[m.metric] is not None for m in metrics)]
    if not found:
        return []
    signs = np.array([1.0 if metric.mode == "max" else -1.0 for metric in metrics])
    scores = signs * np.array([[row[metric.metric] for metric in metrics] for row in found], dtype=np.float64)
    dominated = is_dominated(scores)
    order = sorted(range(len(found)), key=lambda place: (bool(dominated[place]), -scores[place, 0]))
    return [found[place] for place in order]


def is_dominated(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Whether another row of scores [n, m], of which more is better, is better somewhere and nowhere worse, [n]."""
    nowhere_worse = np.all(scores[None] >= scores[:, None], axis=-1)
    somewhere_better = np.any(scores[None] > scores[:, None], axis=-1)
    return np.asarray(np.any(nowhere_worse & somewhere_better, axis=1))
