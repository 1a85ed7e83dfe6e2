"""Regret of the sweep's searchers on one tabulated surface: what EGPO's exact updates reach, by step size and beta.

A search sees the gap of a point with the noise of a trial; its regret is the exact gap of the point that it chooses.
"""

import functools
import warnings
from collections.abc import Iterator
from typing import Literal

import numpy as np
import pytest
from scipy.interpolate import RegularGridInterpolator

from algorithms.games import create, cyclic_game, trajectory
from algorithms.preference import FloatArray
from workflows.sweep.config import SearchConfig
from workflows.sweep.search import POINT, Suggestion, sampler
from workflows.sweep.space import Axis, Point, listed_points

Method = Literal["random", "sobol", "tpe", "gp"]
SPACE = {"step": Axis(low=0.03, high=30.0, log=True), "beta": Axis(low=3e-5, high=0.03, log=True)}
STARTUP, TRIALS, NOISE = 8, 24, 0.01
UPDATES, GAMES, GRID = 20, 2, 15


@functools.cache
def surface() -> RegularGridInterpolator:
    """Duality gap without regularisation after 20 updates, mean of two cyclic games, over both logarithms."""
    axes = [np.geomspace(*axis.ends, GRID) for axis in SPACE.values()]
    gaps = np.zeros((GRID, GRID))
    for row, step in enumerate(axes[0].tolist()):
        for column, beta in enumerate(axes[1].tolist()):
            for seed in range(GAMES):
                game = cyclic_game(6, beta=beta, seed=seed)
                *_, last = trajectory(create("egpo", step_size=step), game, UPDATES)
                gaps[row, column] += game.unregularised_gap(last.log_policy) / GAMES
    return RegularGridInterpolator([np.log(axis) for axis in axes], gaps)


def gap(point: Point) -> float:
    """Of the surface, exact."""
    return float(surface()(np.log([[point[key] for key in SPACE]]))[0])


def suggested(method: Method, seed: int, noise: FloatArray) -> Iterator[Point]:
    """The points of a search, which is told their gaps with noise [trials]."""
    if method in ("random", "sobol"):
        yield from listed_points(SPACE, method, TRIALS, seed)
        return
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search = SearchConfig(method=method, trials=TRIALS, seed=seed, startup=STARTUP)
    study = optuna.create_study(direction="minimize", sampler=sampler(search))
    suggestion = Suggestion(space=SPACE, seeds=(0,))
    for place in range(TRIALS):
        trial = study.ask()
        found = suggestion(trial)
        point = {key: found[f"{POINT}values/{key}"] for key in SPACE}
        study.tell(trial, gap(point) + noise[place])
        yield point


def regrets(method: Method, seeds: int) -> FloatArray:
    """[seeds, trials] how far the choice after so many trials is from the best of the table."""
    rows = []
    for seed in range(seeds):
        noise = NOISE * np.random.default_rng(seed).standard_normal(TRIALS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exact = np.array([gap(point) for point in suggested(method, seed, noise)])
        seen = exact + noise
        chosen = [exact[np.argmin(seen[: count + 1])] for count in range(TRIALS)]
        rows.append(np.array(chosen) - surface().values.min())
    return np.array(rows)


@pytest.mark.slow
def test_searches_that_learn_beat_random_ones_by_the_tenth_trial_after_start_up() -> None:
    after_ten = STARTUP + 10 - 1
    random = regrets("random", 100)[:, after_ten].mean()
    assert regrets("gp", 8)[:, after_ten].mean() < random
    assert regrets("tpe", 12)[:, after_ten].mean() < random
