"""Elo ratings: two policies in closed form, Bradley-Terry strengths found again, and what they cannot show."""

import numpy as np
import pytest

from algorithms.elo import SCALE, elo_ratings


def test_two_policies_in_closed_form() -> None:
    """400 log10 of the odds, one draw included: 9.5 wins and 1.5 losses of ten games with nine wins."""
    found = elo_ratings([[0.5, 0.1], [0.9, 0.5]], games=10)
    assert found[0] == 0.0
    assert found[1] == pytest.approx(400 * np.log10(9.5 / 1.5), rel=1e-5)


def test_strengths_are_found_again_whoever_comes_first() -> None:
    strengths = np.array([0.3, -0.5, 1.2, 0.0])
    rates = 1 / (1 + np.exp(strengths[None, :] - strengths[:, None]))
    found = elo_ratings(rates, games=10**9)
    np.testing.assert_allclose(found, SCALE * (strengths - strengths[0]), atol=1e-3)
    order = [2, 0, 3, 1]
    np.testing.assert_allclose(elo_ratings(rates[np.ix_(order, order)], 10**9), (found - found[2])[order], atol=1e-3)


def test_who_never_lost_has_a_finite_rating_that_grows_with_games() -> None:
    always = [[0.5, 0.0], [1.0, 0.5]]
    few, many = elo_ratings(always, 10)[1], elo_ratings(always, 1000)[1]
    assert 0 < few < many < np.inf


def test_a_circle_looks_like_a_draw() -> None:
    np.testing.assert_allclose(elo_ratings([[0.5, 0.9, 0.1], [0.1, 0.5, 0.9], [0.9, 0.1, 0.5]], 100), 0.0, atol=1e-6)


def test_what_are_no_win_rates_is_refused() -> None:
    with pytest.raises(ValueError, match=r"P \+ P\^T = 1"):
        elo_ratings([[0.5, 0.9], [0.9, 0.5]], 10)
    with pytest.raises(ValueError, match="at least one game"):
        elo_ratings([[0.5]], 0)
