"""A sweep's points: what an axis covers, how methods fill the space, and what Optuna learns from results."""

import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from workflows.sweep.config import SearchConfig
from workflows.sweep.search import Suggestion, sampler
from workflows.sweep.space import Axis, Point, listed_points, probes

RATE = Axis(low=1e-5, high=1e-1, log=True, points=5)
BETA = Axis(low=0.0, high=1.0, points=3)
ETA = Axis(low=0, high=4, integer=True, points=3)
PANEL = Axis(values=("warmth", {"judge": "brevity"}))
SPACE = {"rate": RATE, "beta": BETA, "eta": ETA, "panel": PANEL}


def test_a_grid_is_the_product_of_evenly_spaced_values() -> None:
    assert RATE.grid() == [1e-5, 1e-4, 1e-3, 1e-2, 1e-1]
    assert BETA.grid() == [0.0, 0.5, 1.0]
    assert ETA.grid() == [0, 2, 4]
    assert Axis(low=1, high=2, integer=True, points=5).grid() == [1, 2]
    points = listed_points(SPACE, "grid", None, 0)
    assert len(points) == 5 * 3 * 3 * 2
    assert points[0] == {"rate": 1e-5, "beta": 0.0, "eta": 0, "panel": "warmth"}
    assert points[-1] == {"rate": 1e-1, "beta": 1.0, "eta": 4, "panel": {"judge": "brevity"}}


@given(share=st.floats(0, 1, exclude_max=True))
def test_every_share_of_an_axis_is_a_value_in_it(share: float) -> None:
    assert 1e-5 <= RATE.at(share) <= 1e-1
    assert RATE.at(share) == pytest.approx(10 ** (-5 + 4 * share), rel=1e-5)
    assert BETA.at(share) == pytest.approx(share, rel=1e-5)
    assert abs(ETA.at(share) - (5 * share - 0.5)) <= 0.5 + 1e-9
    assert PANEL.at(share) == PANEL.values[int(2 * share)]  # type: ignore[index]


def test_integers_on_a_log_axis_have_the_weight_of_their_logarithms() -> None:
    axis = Axis(low=1, high=16, log=True, integer=True)
    found = [axis.at(u) for u in (np.arange(10_000) + 0.5) / 10_000]
    assert set(found) == set(range(1, 17))
    assert found.count(1) / 10_000 == pytest.approx(math.log(1.5 / 0.5) / math.log(16.5 / 0.5), abs=1e-3)


@pytest.mark.parametrize("method", ["random", "sobol"])
def test_points_follow_the_seed(method: Any) -> None:
    first = listed_points(SPACE, method, 6, 0)
    assert first == listed_points(SPACE, method, 6, 0)
    assert first != listed_points(SPACE, method, 6, 1)
    assert len(first) == 6


def test_a_sobol_sequence_has_one_point_in_every_part() -> None:
    """A (0, 1)-sequence in base 2: of 2^m points one lies in each of the 2^m equal parts of an axis."""
    for seed in range(3):
        points = listed_points({"a": Axis(low=0, high=1), "b": Axis(low=0, high=1)}, "sobol", 16, seed)
        for key in ("a", "b"):
            assert sorted(int(16 * point[key]) for point in points) == list(range(16))


def test_probes_hold_every_extreme() -> None:
    found = probes(SPACE)
    assert len(found) == 1 + len(SPACE)
    assert {point["rate"] for point in found} == {1e-5, 1e-1}
    assert {point["eta"] for point in found} == {0, 4}
    assert {str(point["panel"]) for point in found} == {str(value) for value in PANEL.values or ()}


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        ({"low": 1.0, "high": 1.0}, "the range from 1 to 1 is empty"),
        ({"low": 2.0, "high": 1.0}, "the range from 2 to 1 is empty"),
        ({"low": 0.0, "high": 1.0, "log": True}, "a log axis can't begin at 0"),
        ({"low": 0.0, "high": float("nan")}, "is empty"),
        ({"values": []}, "at least 1 item"),
        ({}, "give values"),
        ({"low": 1.0}, "give values"),
        ({"values": [1], "low": 0.0}, "not both"),
        ({"low": 0.5, "high": 2.0, "integer": True}, "integer ends"),
        ({"low": 0.0, "high": 1.0, "points": 1}, "greater than or equal to 2"),
    ],
    ids=str,
)
def test_an_axis_that_covers_nothing_is_refused(axis: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Axis(**axis)


# Searches that learn


def ask_and_tell(method: Any, trials: int, seed: int) -> list[Point]:
    """Points that a search suggests where the score is best at rate 1e-3 and `panel` does not matter."""
    import optuna

    suggestion = Suggestion(space={"rate": RATE, "panel": PANEL}, seeds=(4, 5))
    search = SearchConfig(method=method, trials=trials, seed=seed, startup=4)
    study = optuna.create_study(direction="maximize", sampler=sampler(search))
    found = []
    for _ in range(trials):
        trial = study.ask()
        point = suggestion(trial)
        study.tell(trial, -((math.log10(point["point/values/rate"]) + 3) ** 2))
        found.append(point)
    return found


@pytest.mark.parametrize(("method", "trials", "seeds"), [("tpe", 40, 4), ("gp", 12, 1)])
def test_a_search_that_learns_comes_nearer_the_optimum_than_chance(method: str, trials: int, seeds: int) -> None:
    """Uniform points on four decades are one decade from the middle, in the median."""
    distances = [
        [abs(math.log10(point["point/values/rate"]) + 3) for point in ask_and_tell(method, trials, seed)]
        for seed in range(seeds)
    ]
    assert np.median([row[4:] for row in distances]) < 0.75


def test_suggestions_are_whole_trials_with_seeds_in_turn() -> None:
    points = ask_and_tell("tpe", 4, 0)
    assert [point["point/index"] for point in points] == [0, 1, 2, 3]
    assert [point["point/seed"] for point in points] == [4, 5, 4, 5]
    assert all(point["point/values/panel"] in (PANEL.values or ()) for point in points)
    assert points == ask_and_tell("tpe", 4, 0)


def test_a_suggestion_survives_being_kept_on_disk() -> None:
    suggestion = Suggestion(space=SPACE, seeds=(0,))
    assert pickle.loads(pickle.dumps(suggestion)) == suggestion
