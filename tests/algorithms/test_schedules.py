"""Learning-rate factors: closed forms, and bounds that hold for every schedule."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from algorithms.schedules import ScheduleKind, learning_rate_factor

KINDS: tuple[ScheduleKind, ...] = ("constant", "linear", "cosine")


@given(st.sampled_from(KINDS), st.integers(1, 50), st.data())
def test_climbs_then_never_rises_and_stays_between_its_bounds(
    kind: ScheduleKind, total: int, data: st.DataObject
) -> None:
    warmup = data.draw(st.integers(0, total))
    minimum = data.draw(st.floats(0.0, 1.0))
    factors = [learning_rate_factor(step, total, warmup, kind, minimum) for step in range(total + 5)]
    climb, fall = factors[:warmup], factors[warmup:]
    assert all(0.0 < factor < 1.0 for factor in climb)
    assert climb == sorted(set(climb))
    assert fall == sorted(fall, reverse=True)
    assert all(minimum <= factor <= 1.0 for factor in fall)
    if warmup < total:
        assert fall[0] == 1.0
    assert factors[-1] == (1.0 if kind == "constant" else minimum)


def test_closed_forms() -> None:
    assert [learning_rate_factor(step, 6, 2, "linear") for step in range(7)] == pytest.approx(
        [1 / 3, 2 / 3, 1, 0.75, 0.5, 0.25, 0]
    )
    assert [learning_rate_factor(step, 4, 0, "cosine", 0.2) for step in range(5)] == pytest.approx(
        [1, 0.2 + 0.8 * (0.5 + 0.125**0.5), 0.6, 0.2 + 0.8 * (0.5 - 0.125**0.5), 0.2]
    )
    assert [learning_rate_factor(step, 3, 1, "constant") for step in range(4)] == [0.5, 1, 1, 1]


@pytest.mark.parametrize("arguments", [(-1, 10, 0), (0, 10, -1), (0, 10, 11), (0, 0, 0), (0, 10, 0, "linear", 1.5)])
def test_impossible_schedules_are_refused(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"need step|minimum is a share"):
        learning_rate_factor(*arguments)
