"""Pairs for tests of losses: the worked pair on which every loss has a known value, and random ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from algorithms.objective import PairLogProbs

# log pi = -10 and -14, reference -11 and -12, so c = 1 and -2, h = 3; 5 and 8 tokens.
WORKED = {
    "first": -10.0,
    "second": -14.0,
    "anchor_first": -11.0,
    "anchor_second": -12.0,
    "behaviour_first": -10.0,
    "behaviour_second": -14.0,
    "first_length": 5.0,
    "second_length": 8.0,
    "target": 1.0,
    "first_rate": 0.5,
    "second_rate": 0.5,
}


def worked_pair(**fields: float) -> PairLogProbs:
    """The worked pair with other values in these fields; [1], float64."""
    values: dict[str, Any] = {
        name: torch.tensor([value], dtype=torch.float64) for name, value in {**WORKED, **fields}.items()
    }
    return PairLogProbs(first_index=torch.tensor([0]), second_index=torch.tensor([1]), **values)


def random_pairs(size: int = 4, seed: int = 0) -> PairLogProbs:
    """Pairs with nothing in common, [size], float64, whose log-probabilities have gradients."""
    generator = np.random.default_rng(seed)
    values: dict[str, Any] = {
        name: torch.tensor(generator.normal(value, 1.0, size)) for name, value in WORKED.items() if value < 0
    }
    rates = np.sort(generator.random((2, size)), axis=0)
    return PairLogProbs(
        first=values.pop("first").requires_grad_(),
        second=values.pop("second").requires_grad_(),
        **values,
        first_length=torch.arange(1, size + 1),
        second_length=torch.arange(4, size + 4),
        first_index=torch.zeros(size, dtype=torch.int64),
        second_index=torch.ones(size, dtype=torch.int64),
        target=torch.tensor(generator.uniform(0.6, 0.9, size)),
        first_rate=torch.tensor(rates[1]),
        second_rate=torch.tensor(rates[0]),
    )
