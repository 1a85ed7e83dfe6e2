"""Step sizes have the values their sources give them."""

from __future__ import annotations

import numpy as np
import pytest

from algorithms.games import STEP_SIZES, uniform_game
from algorithms.games.step_sizes import hedge_step


@pytest.mark.parametrize(
    ("name", "updates", "value"),
    [
        ("extragradient", 7, 1.0 / 3.25),
        ("decaying", 0, 4.0),
        ("decaying", 6, 1.0),
        ("magnetic", 7, 0.25),
        ("optimistic", 7, 0.125),
    ],
)
def test_named_steps(name: str, updates: int, value: float) -> None:
    assert STEP_SIZES[name](uniform_game(5, beta=0.25), updates) == pytest.approx(value, abs=1e-15)


def test_the_hedge_step_depends_on_horizon_and_actions() -> None:
    assert hedge_step(50)(uniform_game(9, beta=0.1), 3) == pytest.approx(np.sqrt(8.0 * np.log(9.0) / 50.0))
    with pytest.raises(ValueError, match="1 update or more, got 0"):
        hedge_step(0)
