"""The delay rule on measured steps: by hand, and against the exact radius of the linearised updates."""

import pytest

from algorithms.delay_rule import delay_rule
from algorithms.games.stability import LARGEST_ROTATION, largest_stable_delay
from algorithms.objective import build_objective


def test_by_hand() -> None:
    found = delay_rule(build_objective("online_ipo", {"beta": 0.1}), moved_share=0.01, delay=3)
    assert found is not None
    assert [found.step_size, found.temperature] == pytest.approx([0.1, 0.1])
    assert found.limit == pytest.approx(8 * 0.1 / 0.1 - 0.5)
    assert found.kept
    assert not delay_rule(build_objective("online_ipo", {"beta": 0.1}), moved_share=0.1, delay=1).kept  # type: ignore[union-attr]


def test_extragradient_buys_one_update() -> None:
    plain = delay_rule(build_objective("online_ipo", {"beta": 0.1}), 0.02, 0)
    extra = delay_rule(build_objective("egpo", {"beta": 0.1}), 0.02, 0)
    assert plain is not None
    assert extra is not None
    assert plain.limit is not None
    assert extra.limit == pytest.approx(plain.limit + 1)


@pytest.mark.parametrize("share", [0.002, 0.005, 0.01])
def test_below_the_limit_the_worst_game_contracts(share: float) -> None:
    rule = delay_rule(build_objective("online_ipo", {"beta": 0.1}), share, 0)
    assert rule is not None
    assert rule.limit is not None
    exact = largest_stable_delay("omd", rule.step_size, rule.temperature, float(LARGEST_ROTATION), limit=64)
    assert exact is not None
    assert int(rule.limit) <= exact <= 1.1 * rule.limit + 1


def test_nothing_is_said_where_there_is_no_rule() -> None:
    assert delay_rule(build_objective("sppo", {}), 0.1, 0) is None, "no pull to the reference"
    still = delay_rule(build_objective("online_ipo", {}), 0.0, 0)
    assert still is not None
    assert (still.limit, still.kept) == (None, None)
