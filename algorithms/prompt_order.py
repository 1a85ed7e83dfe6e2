"""Which prompt the group at an admission index gets: each epoch is a permutation of its own."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=4)
def _permutation(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(count)


def prompt_at(index: int, count: int, seed: int) -> tuple[int, int]:
    """(epoch, place in the prompts file) of the group at `index`, from (seed, index) alone."""
    epoch, offset = divmod(index, count)
    return epoch, int(_permutation(count, seed, epoch)[offset])
