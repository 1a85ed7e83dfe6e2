"""The optimum of a group: exact on a quadratic, honest about its error, and marked where the grid can't show it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from algorithms.preference import FloatArray
from algorithms.scaling.optimum import local_optimum

RATES = np.geomspace(1e-5, 1e-3, 9)[:, None]


def bowl(settings: FloatArray, best: float, depth: float = 0.02) -> FloatArray:
    return np.asarray(2.0 + depth * (np.log(settings[:, 0]) - np.log(best)) ** 2)


@given(st.floats(4e-5, 3e-4), st.booleans())
def test_a_quadratic_in_the_logarithm_gives_its_vertex(best: float, maximise: bool) -> None:
    sign = -1.0 if maximise else 1.0
    found = local_optimum(RATES, sign * bowl(RATES, best), maximise)
    assert found.setting[0] == pytest.approx(best)
    assert found.best == pytest.approx(sign * 2.0)
    assert found.fault == ""
    assert found.at(RATES) == pytest.approx(sign * bowl(RATES, best))


def test_two_settings_at_once() -> None:
    rates, batches = np.geomspace(1e-4, 1e-2, 7), np.geomspace(8.0, 512.0, 7)
    settings = np.array([[rate, batch] for rate in rates for batch in batches])
    x, y = np.log(settings[:, 0] / 1.3e-3), np.log(settings[:, 1] / 70.0)
    found = local_optimum(settings, 3.0 + 0.1 * x**2 + 0.05 * y**2 - 0.06 * x * y, maximise=False)
    assert found.setting == pytest.approx([1.3e-3, 70.0])
    assert found.best == pytest.approx(3.0)


def test_the_interval_contains_the_optimum_as_often_as_it_claims() -> None:
    """400 noisy groups of two seeds; a fixed grid value in the middle keeps the choice of neighbours the same."""
    generator, hits, settings = np.random.default_rng(0), 0, np.repeat(RATES[1:8], 2, axis=0)
    for _ in range(400):
        found = local_optimum(settings, bowl(settings, 1e-4) + 0.004 * generator.standard_normal(14), maximise=False)
        hits += bool(found.low[0] <= 1e-4 <= found.high[0])
    assert 364 <= hits <= 396


def test_seeds_of_a_setting_count_once_each_and_the_best_is_by_their_mean() -> None:
    settings = np.repeat(RATES, 2, axis=0)
    outcomes = np.repeat(bowl(RATES, 1e-4), 2)
    outcomes[0] -= 0.2
    outcomes[1] += 0.2
    found = local_optimum(settings, outcomes, maximise=False)
    assert found.setting[0] == pytest.approx(1e-4)
    assert found.fault == ""


def test_fewer_neighbours_keep_a_cliff_near_the_optimum_out() -> None:
    outcomes = bowl(RATES, 1e-4)
    outcomes[7:] += 100.0
    assert local_optimum(RATES, outcomes, False).setting[0] < 9e-5
    assert local_optimum(RATES, outcomes, False, neighbours=2).setting[0] == pytest.approx(1e-4)


def test_far_trials_do_not_bend_the_quadratic() -> None:
    outcomes = bowl(RATES, 1e-4)
    outcomes[-1] += 100.0
    found = local_optimum(RATES, outcomes, maximise=False)
    assert found.setting[0] == pytest.approx(1e-4)
    assert not found.used[-1]


@pytest.mark.parametrize(("best", "side"), [(1e-5, "smallest"), (9e-4, "largest"), (1.8e-5, "smallest")])
def test_an_optimum_at_the_edge_is_marked(best: float, side: str) -> None:
    assert f"on the side of the {side}" in local_optimum(RATES, bowl(RATES, best), maximise=False).fault


def test_what_has_no_peak_is_marked_and_the_best_trial_given() -> None:
    outcomes = np.abs(np.log(RATES[:, 0] / 1e-4)) ** 0.3
    found = local_optimum(RATES, outcomes, maximise=False)
    assert found.setting[0] == pytest.approx(1e-4)
    flat = local_optimum(RATES, np.where(np.arange(9) == 4, -1e-9, -bowl(RATES, 1e-4) * 1e-12), maximise=False)
    assert flat.fault == "" or flat.high[0] == np.inf
    hill = local_optimum(RATES[2:7], np.array([0.0, 1.0, -0.01, 1.2, -0.005]), maximise=False)
    assert hill.fault == "the outcomes around it have no peak"
    assert (hill.low[0], hill.high[0]) == (0.0, np.inf)


def test_a_peak_outside_its_trials_is_marked() -> None:
    """The best trial is an outlier on a slope: the quadratic's peak lies beyond the trials around it."""
    offsets = np.log(RATES[1:8, 0] / 1e-4)
    outcomes = 2.0 - 0.11 * offsets
    outcomes[3] -= 0.2
    found = local_optimum(RATES[1:8], outcomes, maximise=False)
    assert found.fault == "the quadratic has its peak outside the trials that it was fitted to"


def test_an_optimum_that_noise_hides_is_marked() -> None:
    settings, noise = np.repeat(RATES, 2, axis=0), np.tile([1.0, -1.0], 9)
    clean = bowl(settings, 1e-4)
    quiet, loud = (local_optimum(settings, clean + size * noise, maximise=False) for size in (1e-3, 0.25))
    assert quiet.fault == ""
    assert "the noise hides its optimum" in loud.fault


def test_too_few_trials_are_marked() -> None:
    assert local_optimum(RATES[:3], np.array([2.0, 1.0, 2.0]), maximise=False).fault
    assert local_optimum(RATES[:1], np.array([2.0]), maximise=False).fault
