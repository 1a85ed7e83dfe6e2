"""Best of n: what the answer with the highest proxy score is worth to another scorer, without bias.

N answers of one prompt hold C(N, n) sets of n. The estimate is the mean over all of them, exactly, so that every n up
to N is estimated from the same answers (Coste et al. 2023, arXiv 2310.02743, and their code).
"""

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

FloatArray = npt.NDArray[np.float64]


def rank_weights(count: int, n: int) -> FloatArray:
    """Probability that the best of n drawn from `count` without replacement has rank i, [count], ascending.

    w_i = C(i - 1, n - 1) / C(N, n) for i = 1 .. N, in logarithms, so that N may be large.
    Raises: ValueError unless 1 <= n <= count.
    """
    if not 1 <= n <= count:
        raise ValueError(f"best of n draws 1 to {count} of {count} answers, got n = {n}")
    ranks = np.arange(n, count + 1)
    log_weights = _log_choose(ranks - 1, n - 1) - _log_choose(np.array(count), n)
    return np.concatenate([np.zeros(n - 1), np.exp(log_weights)])


def best_of_n(proxy: npt.ArrayLike, gold: npt.ArrayLike, n: int) -> float:
    """Expected gold score of the answer that the proxy likes best among n of one prompt's N: [N], [N].

    Of equal proxy scores each is as likely to be taken. With gold = proxy it is the expected maximum.
    """
    liked, worth = np.asarray(proxy, dtype=np.float64), np.asarray(gold, dtype=np.float64)
    if liked.ndim != 1 or liked.shape != worth.shape or not (np.isfinite(liked) & np.isfinite(worth)).all():
        raise ValueError(f"need a finite proxy and gold score of each answer, got {liked.shape} and {worth.shape}")
    _, block = np.unique(liked, return_inverse=True)
    sizes = np.bincount(block)
    means = np.bincount(block, weights=worth) / sizes
    return float(rank_weights(len(liked), n) @ np.repeat(means, sizes))


def kl_of_best_of_n(n: int) -> float:
    """log n - (n - 1) / n, nats: KL of best of n from the policy that it draws from.

    Exact where no two answers can have one score, an upper bound otherwise.
    """
    if n < 1:
        raise ValueError(f"best of n needs n >= 1, got {n}")
    return float(np.log(n) - (n - 1) / n)


def _log_choose(n: npt.NDArray[np.int64], k: int) -> FloatArray:
    return np.asarray(gammaln(n + 1.0) - gammaln(k + 1.0) - gammaln(n - k + 1.0), dtype=np.float64)
