"""Learning-rate factors: closed forms, and bounds that hold for every schedule."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from algorithms.schedules import EXPONENTIAL_END, ScheduleKind, learning_rate_factor, refined_curve

KINDS: tuple[ScheduleKind, ...] = ("constant", "linear", "cosine", "wsd", "rex", "curve")
FALLING = (1.0, 0.9, 0.2, 0.0)


@given(st.sampled_from(KINDS), st.integers(1, 50), st.data())
def test_climbs_then_never_rises_and_stays_between_its_bounds(
    kind: ScheduleKind, total: int, data: st.DataObject
) -> None:
    warmup = data.draw(st.integers(0, total))
    minimum = data.draw(st.floats(0.0, 1.0))
    factors = [learning_rate_factor(step, total, warmup, kind, minimum, curve=FALLING) for step in range(total + 5)]
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


def test_rex_takes_the_values_of_its_formula() -> None:
    found = [learning_rate_factor(step, 10, 0, "rex") for step in (0, 2, 5, 8, 9, 10)]
    assert found == pytest.approx([1, 0.8889, 0.6667, 0.3333, 0.1818, 0], abs=5e-5)
    assert learning_rate_factor(5, 10, 0, "rex", rex_beta=0.1) == pytest.approx(0.909, abs=5e-4)
    linear = [learning_rate_factor(step, 10, 0, "linear") for step in range(11)]
    assert [learning_rate_factor(step, 10, 0, "rex", rex_beta=1.0) for step in range(11)] == pytest.approx(linear)


@pytest.mark.parametrize(
    ("shape", "minimum", "expected"),
    [
        ("linear", 0.0, [1, 1, 0.75, 0.5, 0.25, 0]),
        ("linear", 0.2, [1, 1, 0.8, 0.6, 0.4, 0.2]),
        ("sqrt", 0.0, [1, 1, 0.5, 1 - 0.5**0.5, 1 - 0.75**0.5, 0]),
        ("exponential", 0.0, [1, 1, *(EXPONENTIAL_END**share for share in (0.25, 0.5, 0.75, 1))]),
        ("exponential", 0.0625, [1, 1, 0.5, 0.25, 0.125, 0.0625]),
    ],
)
def test_wsd_is_stable_and_then_decays(shape: Any, minimum: float, expected: list[float]) -> None:
    found = [
        learning_rate_factor(step, 10, 2, "wsd", minimum, decay_share=0.5, decay_shape=shape)
        for step in (2, 6, 7, 8, 9, 10)
    ]
    assert found == pytest.approx(expected)


def test_wsd_over_all_steps_is_its_decay() -> None:
    for step in range(9):
        found = learning_rate_factor(step, 8, 0, "wsd", decay_share=1.0, decay_shape="linear")
        assert found == pytest.approx(learning_rate_factor(step, 8, 0, "linear"))


def test_a_curve_is_read_with_straight_lines_and_scaled_to_its_peak() -> None:
    found = [learning_rate_factor(step, 8, 0, "curve", curve=[2.0, 4.0, 0.0]) for step in (0, 2, 4, 6, 8)]
    assert found == pytest.approx([0.5, 0.75, 1, 0.5, 0])


def test_equal_gradient_norms_refine_to_exactly_linear_decay() -> None:
    """eta_t is proportional to T - t for t = 1..T, so the largest, the first, is T - 1."""
    refined = refined_curve(np.full(101, 3.7))
    assert refined == pytest.approx(1.0 - np.arange(101) / 100, abs=1e-12)
    assert learning_rate_factor(30, 100, 0, "curve", curve=refined.tolist()) == pytest.approx(0.7)


def test_refinement_by_hand() -> None:
    """w = 1, 1/4, 1/16: eta = 1 * 5/16, 1/4 * 1/16, 0."""
    assert refined_curve([1, 2, 4], smoothing=0.0) == pytest.approx([1, 0.05, 0])
    assert refined_curve([1, 2, 4], smoothing=0.0, exponent=1.0) == pytest.approx([1, 1 / 6, 0])


def test_falling_norms_delay_the_decay_and_a_scale_changes_nothing() -> None:
    norms = np.linspace(2.0, 1.0, 200)
    refined = refined_curve(norms)
    assert refined[0] < 1.0
    assert 0 < int(refined.argmax()) < 199
    assert refined_curve(norms * 1e6) == pytest.approx(refined)


def test_smoothing_removes_an_outlier() -> None:
    norms = np.ones(100)
    norms[40] = 1e-3
    assert refined_curve(norms, smoothing=0.1) == pytest.approx(refined_curve(np.ones(100)))
    assert refined_curve(norms, smoothing=0.0)[40] == 1.0


@pytest.mark.parametrize("arguments", [(-1, 10, 0), (0, 10, -1), (0, 10, 11), (0, 0, 0), (0, 10, 0, "linear", 1.5)])
def test_impossible_schedules_are_refused(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"need step|minimum is a share"):
        learning_rate_factor(*arguments)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("wsd", {"decay_share": 0.0}, "decay_share"),
        ("rex", {"rex_beta": 0.0}, "rex_beta"),
        ("curve", {}, "at least two"),
        ("curve", {"curve": [1.0, float("nan")]}, "finite"),
    ],
)
def test_impossible_options_are_refused(kind: ScheduleKind, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        learning_rate_factor(1, 10, 0, kind, **options)


@pytest.mark.parametrize(
    ("norms", "message"), [([1.0], "two steps"), ([1, 0, 1], "step 1 is 0"), ([[1, 2], [3, 4]], r"shape \(2, 2\)")]
)
def test_norms_that_are_none_are_refused(norms: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        refined_curve(norms)
