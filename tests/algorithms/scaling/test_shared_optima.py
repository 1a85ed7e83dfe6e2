"""Optima of groups that share their curvature: exact where they do, and found where noise hides a single group's."""

import numpy as np
import pytest

from algorithms.preference import FloatArray
from algorithms.scaling.optimum import local_optimum, shared_optima

RATES = np.repeat(np.geomspace(1e-5, 1e-2, 7), 2)[:, None]
BESTS, HEIGHTS = (1.2e-4, 2.5e-4, 5e-4), (0.6, 0.8, 0.7)
BEND = 0.03


def hill(best: float, height: float) -> FloatArray:
    return np.asarray(height - BEND * (np.log(RATES[:, 0]) - np.log(best)) ** 2)


def groups(noise: float = 0.0, seed: int = 0) -> list[tuple[FloatArray, FloatArray]]:
    generator = np.random.default_rng(seed)
    return [
        (RATES, hill(best, height) + noise * generator.standard_normal(len(RATES)))
        for best, height in zip(BESTS, HEIGHTS, strict=True)
    ]


@pytest.mark.parametrize("maximise", [True, False])
def test_quadratics_that_bend_alike_give_their_vertices(maximise: bool) -> None:
    sign = 1.0 if maximise else -1.0
    found = shared_optima([(settings, sign * outcomes) for settings, outcomes in groups()], maximise)
    assert [optimum.setting[0] for optimum in found] == pytest.approx(BESTS)
    assert [sign * optimum.best for optimum in found] == pytest.approx(HEIGHTS)
    assert [optimum.fault for optimum in found] == ["", "", ""]
    assert sign * found[1].at(RATES) == pytest.approx(hill(BESTS[1], HEIGHTS[1]))


def test_a_group_by_itself_is_a_quadratic_through_all_its_trials() -> None:
    settings, outcomes = groups(noise=0.02)[0]
    (alone,), far = shared_optima([(settings, outcomes)], True), local_optimum(settings, outcomes, True, neighbours=9)
    for end in ("setting", "low", "high"):
        assert getattr(alone, end) == pytest.approx(getattr(far, end))


def test_two_settings_at_once() -> None:
    rates, batches = np.geomspace(1e-4, 1e-2, 6), np.geomspace(8.0, 512.0, 6)
    settings = np.array([[rate, batch] for rate in rates for batch in batches])
    bests = ([1.3e-3, 70.0], [8e-4, 40.0])
    offsets = [np.log(settings / best) for best in bests]
    outcomes = [0.1 * x**2 + 0.05 * y**2 - 0.06 * x * y for x, y in (each.T for each in offsets)]
    found = shared_optima([(settings, values) for values in outcomes], False)
    assert np.stack([optimum.setting for optimum in found]) == pytest.approx(np.array(bests))


def test_intervals_contain_the_optima_as_often_as_they_claim_and_are_the_narrower() -> None:
    """200 tables of three groups under noise; a single group's quadratic leaves many of its optima unknown."""
    hits = shared_width = own_width = 0.0
    for seed in range(200):
        table = groups(noise=0.1, seed=seed)
        for optimum, best, (settings, outcomes) in zip(shared_optima(table, True), BESTS, table, strict=True):
            hits += bool(optimum.low[0] <= best <= optimum.high[0])
            shared_width += float(np.log(optimum.high[0] / optimum.low[0]))
            alone = local_optimum(settings, outcomes, True, neighbours=9)
            own_width += float(np.log(alone.high[0] / alone.low[0])) if alone.high[0] < np.inf else 0.0
    assert 0.92 <= hits / 600 <= 0.985
    assert shared_width < own_width


def test_a_cliff_moves_all_optima_by_one_factor() -> None:
    """Rates around each optimum alike: what lies beyond the last but one falls off in every group."""
    table = []
    for best in BESTS:
        offsets = np.repeat(np.arange(-3.0, 4.0), 2)
        outcomes = -BEND * offsets**2 - np.where(offsets > 1.5, 0.4, 0.0)
        table.append((best * np.exp(offsets)[:, None], outcomes))
    moved = [optimum.setting[0] / best for optimum, best in zip(shared_optima(table, True), BESTS, strict=True)]
    assert moved == pytest.approx([moved[0]] * 3)
    assert moved[0] < 0.8


def test_an_optimum_on_the_edge_is_marked_and_leaves_the_others() -> None:
    table = groups()
    table[0] = (RATES, hill(1.1e-5, 0.5))
    found = shared_optima(table, True)
    assert found[0].fault == "its optimum, 1.1e-05, has fewer than 2 beyond it on the side of the smallest"
    assert (found[1].fault, found[2].fault) == ("", "")


def test_what_noise_hides_has_no_peak_or_is_too_little_is_marked() -> None:
    assert all("the noise hides" in optimum.fault for optimum in shared_optima(groups(noise=0.9, seed=3), True))
    upside_down = shared_optima([(settings, -outcomes) for settings, outcomes in groups()], True)
    assert {optimum.fault for optimum in upside_down} == {"the outcomes of all groups together have no peak"}
    few = shared_optima([(RATES[:1], np.array([0.5])), (RATES[:3], np.array([0.5, 0.6, 0.4]))], True)
    assert {optimum.fault for optimum in few} == {"too few trials for a quadratic that all groups share"}
    assert few[1].setting[0] == RATES[1]
