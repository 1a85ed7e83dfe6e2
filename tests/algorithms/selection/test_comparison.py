"""Does Robust Preference Selection help? On a policy whose quality is known, exactly where theory says it does."""

import math

import numpy as np
import pytest
from scipy import stats

from algorithms.selection.comparison import compare
from algorithms.selection.directions import FloatArray, angle_of, at_angle, grid
from algorithms.selection.rules import best_of_n, projected

PROMPTS, K, NOISE = 400, 5, 0.05
TARGET = 40.0


def quality(angle: float, slope: float) -> float:
    """1 on the trained arc [-45, 0], falling by `slope` a degree beyond it."""
    return 1.0 - slope * max(0.0, angle)


def chosen_scores(directions: FloatArray, slope: float, generator: np.random.Generator) -> FloatArray:
    """Target score [PROMPTS] of the best of one answer for each direction: r = q(angle) v + noise."""
    means = np.stack([quality(angle_of(v), slope) * v for v in directions])
    rewards = means + NOISE * generator.standard_normal((PROMPTS, K, 2))
    scores = [projected(r, at_angle(TARGET)) for r in rewards]
    return np.array([s[best_of_n(s)[0]] for s in scores])


def arms(slope: float, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    """Robust Preference Selection and best-of-n from the target direction alone, with K candidates each."""
    generator = np.random.default_rng(seed)
    neighbours = chosen_scores(grid(at_angle(TARGET), K), slope, generator)
    return neighbours, chosen_scores(np.tile(at_angle(TARGET), (K, 1)), slope, generator)


def gain(slope: float) -> float:
    """Mean gain that was found."""
    return compare(*arms(slope)).gain.mean


def expected_gain(slope: float) -> float:
    """Largest q(theta_i) cos(theta_i - theta_t) - q(theta_t) in the neighbourhood, without noise."""
    angles = [angle_of(v) for v in grid(at_angle(TARGET), K)]
    return max(quality(a, slope) * math.cos(math.radians(a - TARGET)) for a in angles) - quality(TARGET, slope)


def test_selection_wins_where_quality_falls_off_beyond_the_trained_arc() -> None:
    found = compare(*arms(slope=0.02))
    assert found.gain.low > 0
    assert found.sign_p < 1e-6
    assert found.win_rate.low > 0.5
    assert found.gain.mean == pytest.approx(expected_gain(0.02), abs=2 * NOISE)


def test_selection_does_not_win_where_training_covered_the_target() -> None:
    """Negative control: with equal numbers of candidates, leaving the target direction only costs alignment."""
    found = compare(*arms(slope=0.0))
    assert found.win_rate.high < 0.5
    assert found.gain.high < 0


def test_the_gain_changes_sign_where_the_slope_meets_the_misalignment() -> None:
    assert expected_gain(0.02) > 0 == expected_gain(0.0)
    assert [gain(0.0), gain(0.01), gain(0.02)] == sorted([gain(0.0), gain(0.01), gain(0.02)])


def test_unequal_numbers_of_candidates_would_look_like_a_gain() -> None:
    """Best of 5 against best of 3 from one direction: the expected maximum alone differs by 0.317 sigma."""
    generator = np.random.default_rng(1)
    five = generator.standard_normal((4000, 5)).max(axis=1)
    three = generator.standard_normal((4000, 3)).max(axis=1)
    assert compare(five, three).gain.mean == pytest.approx(1.163 - 0.846, abs=0.05)


def test_counts_ties_and_the_sign_test() -> None:
    found = compare([1.0, 2.0, 3.0, 4.0, 5.0], [0.0, 2.0, 1.0, 5.0, 1.0])
    assert (found.wins, found.losses, found.ties) == (3, 1, 1)
    assert found.win_rate.mean == pytest.approx(0.7)
    assert found.decided_rate == 0.75
    assert found.gain.mean == pytest.approx(1.2)
    assert found.sign_p == pytest.approx(stats.binomtest(3, 4).pvalue)
    assert compare([1.0], [1.0]).sign_p == 1.0


def test_the_interval_is_paired() -> None:
    """A spread that prompts share does not widen it."""
    generator = np.random.default_rng(2)
    prompt = 100 * generator.standard_normal(300)
    noise = generator.standard_normal(300)
    found = compare(prompt + 1 + 0.1 * noise, prompt)
    assert found.gain.high - found.gain.low < 0.05


@pytest.mark.parametrize(("first", "second"), [([], []), ([1.0], [1.0, 2.0]), ([float("nan")], [1.0])])
def test_what_cannot_be_compared_is_refused(first: list[float], second: list[float]) -> None:
    with pytest.raises(ValueError, match="paired comparison"):
        compare(first, second)
