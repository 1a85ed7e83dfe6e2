"""Directions: the published neighbourhoods exactly, and the sampled ones by their distributions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from algorithms.selection.directions import (
    angle_between,
    angle_of,
    at_angle,
    direction,
    grid,
    sampled,
    von_mises_concentration,
)

PUBLISHED = {
    10: [10, 5, 15, 0, 20],
    20: [20, 15, 25, 10, 30],
    30: [30, 25, 35, 20, 40],
    35: [35, 30, 40, 25, 20],
    40: [40, 35, 30, 25, 20],
    45: [40, 35, 30, 25, 20],
}
"""Neighbourhoods that the authors' code builds for these targets (step 5, theta_max 30, k 5), in its order."""


@pytest.mark.parametrize(("target", "angles"), PUBLISHED.items())
def test_the_published_neighbourhoods(target: int, angles: list[int]) -> None:
    found = [angle_of(member) for member in grid(at_angle(target), k=5)]
    assert found == pytest.approx(angles)


@pytest.mark.parametrize(
    ("angle", "vector"),
    [(10, (0.9848, 0.1736)), (20, (0.9397, 0.3420)), (35, (0.8192, 0.5736)), (45, (0.7071, 0.7071))],
)
def test_the_published_test_directions(angle: int, vector: tuple[float, float]) -> None:
    assert at_angle(angle) == pytest.approx(vector, abs=5e-5)


def test_a_grid_that_leans_takes_one_side_only() -> None:
    leaning = [angle_of(member) for member in grid(at_angle(20), k=5, toward=at_angle(-20))]
    assert leaning == pytest.approx([20, 15, 10, 5, 0], abs=1e-9)
    assert leaning != [angle_of(member) for member in grid(at_angle(20), k=5)]


def test_theta_max_step_and_limit_change_the_grid() -> None:
    near = [angle_of(member) for member in grid(at_angle(0), k=3, theta_max=2, step=1)]
    assert near == pytest.approx([0, -1, 1], abs=1e-9)
    wide = [angle_of(member) for member in grid(at_angle(45), k=3, limit=60)]
    assert wide == pytest.approx([45, 40, 50])


def test_a_grid_with_too_few_members_says_how_many_there_are() -> None:
    with pytest.raises(ValueError, match="has 4 directions within theta_max = 30 degrees of the target at 55"):
        grid(at_angle(55), k=5)
    with pytest.raises(ValueError, match="two objectives, not 3"):
        grid([1, 1, 1], k=5)


@given(st.integers(2, 5), st.floats(1, 90), st.sampled_from([0.0, 10.0]), st.integers(0, 2**32))
def test_samples_are_unit_vectors_within_the_cap(dimensions: int, theta_max: float, kappa: float, seed: int) -> None:
    target = direction(np.arange(1, dimensions + 1))
    members = sampled(target, 16, theta_max, seed, kappa)
    assert members.shape == (16, dimensions)
    assert np.linalg.norm(members, axis=1) == pytest.approx(np.ones(16))
    assert max(angle_between(target, member) for member in members) <= theta_max + 1e-6
    assert (sampled(target, 16, theta_max, seed, kappa) == members).all()


def test_on_the_circle_the_angle_is_uniform() -> None:
    offsets = [angle_of(member) - 30 for member in sampled(at_angle(30), 4000, 25, seed=0)]
    assert stats.kstest(offsets, stats.uniform(-25, 50).cdf).pvalue > 0.01


def test_on_the_sphere_the_cosine_is_uniform() -> None:
    """A cap of the sphere in three dimensions has area proportional to its height (Archimedes)."""
    target = direction([1, 2, -1])
    cosines = sampled(target, 4000, 40, seed=1) @ target
    low = np.cos(np.radians(40))
    assert stats.kstest(cosines, stats.uniform(low, 1 - low).cdf).pvalue > 0.01


def test_concentration_is_that_of_a_cut_von_mises_density() -> None:
    kappa, cut = von_mises_concentration(30), np.radians(30)
    offsets = np.radians([angle_of(member) for member in sampled(at_angle(0), 4000, 30, seed=2, concentration=kappa)])
    whole = stats.vonmises(kappa)
    mass = whole.cdf(cut) - whole.cdf(-cut)
    assert stats.kstest(offsets, lambda a: (whole.cdf(a) - whole.cdf(-cut)) / mass).pvalue > 0.01
    assert np.degrees(1 / np.sqrt(kappa)) == pytest.approx(15)


def test_leaning_samples_lie_on_the_side_of_the_trained_region() -> None:
    leaning = [angle_of(member) for member in sampled(at_angle(40), 200, 20, seed=3, toward=at_angle(-20))]
    assert max(leaning) <= 40
    assert stats.kstest(leaning, stats.uniform(20, 20).cdf).pvalue > 0.01
    assert max(angle_of(member) for member in sampled(at_angle(40), 200, 20, seed=3)) > 50


@pytest.mark.parametrize(
    ("weights", "message"),
    [([0.0, 0.0], "length 0"), ([1.0, float("nan")], "finite"), ([1.0], "two or more"), ([[1.0, 2.0]], "two or more")],
)
def test_what_is_no_direction_is_refused(weights: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        direction(weights)


def test_directions_of_any_size_are_normalised() -> None:
    assert direction([3e300, 4e300]) == pytest.approx([0.6, 0.8])
    assert direction([3e-320, 4e-320]) == pytest.approx([0.6, 0.8], abs=1e-3)


@pytest.mark.parametrize("theta_max", [0.0, -1.0, 90.1, float("nan")])
def test_theta_max_outside_its_range_is_refused(theta_max: float) -> None:
    with pytest.raises(ValueError, match="theta_max"):
        sampled(at_angle(0), 3, theta_max, seed=0)
    with pytest.raises(ValueError, match="k >= 1"):
        sampled(at_angle(0), 0, 30.0, seed=0)
