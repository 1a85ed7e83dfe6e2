"""A scored group for tests of pairs."""

import numpy as np

from algorithms.preference import FloatArray


def group_of(candidates: int, seed: int = 0) -> tuple[FloatArray, list[int], FloatArray]:
    """A random preference matrix [K, K], K different identities, and log-ratios [K] of a policy that has moved."""
    generator = np.random.default_rng(seed)
    upper = np.triu(generator.random((candidates, candidates)), 1)
    preference = upper + np.tril(1.0 - upper.T, -1) + 0.5 * np.eye(candidates)
    return preference, list(range(candidates)), generator.normal(size=candidates)
