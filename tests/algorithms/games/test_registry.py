"""Algorithms by name: aliases agree, options do something, mistakes are named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from algorithms.games import Algorithm, FloatArray, create, cyclic_game, names, trajectory


def last(algorithm: Algorithm) -> FloatArray:
    *_, state = trajectory(algorithm, cyclic_game(5, beta=0.2), 5)
    return state.log_policy


@pytest.mark.parametrize("aliases", [("omd", "inpo", "online_ipo"), ("mwu", "spo", "sppo", "dno"), ("omwu", "onpo")])
def test_names_of_one_update_agree(aliases: tuple[str, ...]) -> None:
    first, *others = (last(create(name, step_size=0.5)) for name in aliases)
    assert all(np.array_equal(first, other) for other in others)


def test_different_algorithms_differ() -> None:
    distinct = ("omd", "nash_md", "mmd", "egpo", "past_extragradient", "mwu", "omwu")
    solved = ("best_response", "online_dpo", "iterative_dpo")
    results = [last(create(name, step_size=0.5)) for name in distinct] + [last(create(name)) for name in solved]
    for i, one in enumerate(results):
        assert all(np.max(np.abs(one - other)) > 1e-4 for other in results[:i])


def test_every_name_can_be_built_and_run() -> None:
    for name in names():
        solved = name in ("best_response", "online_dpo", "iterative_dpo")
        options: dict[str, Any] = {} if solved else {"step_size": "extragradient"}
        assert np.all(np.isfinite(last(create(name, magnet_every=2, **options))))


@pytest.mark.parametrize(
    "option",
    [
        {"step_size": 0.4},
        {"step_size": "decaying"},
        {"step_size": "magnetic"},
        {"step_size": "optimistic"},
        {"step_size": "extragradient"},
        {"step_size": lambda game, updates: 0.1 * (updates + 1)},
        {"magnet_every": 2},
        {"momentum": 0.2},
        {"delay": 1},
        {"extrapolation": 1.0},
    ],
)
def test_every_option_changes_the_curve(option: dict[str, Any]) -> None:
    plain = last(create("egpo", step_size=0.5))
    assert np.max(np.abs(last(create("egpo", **{"step_size": 0.5, **option})) - plain)) > 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "egop", "step_size": 1.0}, "unknown algorithm 'egop'.*did you mean 'egpo'"),
        ({"name": "egpo"}, "egpo needs a step size"),
        ({"name": "egpo", "step_size": "decayin"}, "unknown step size 'decayin'.*did you mean 'decaying'"),
        ({"name": "online_dpo", "step_size": 1.0}, "no step size, got 1.0"),
        ({"name": "mpo", "step_size": 1.0}, "magnet_every"),
        ({"name": "mpo", "step_size": 1.0, "magnet_every": 0}, "1 or more updates, got 0"),
        ({"name": "online_dpo", "delay": 2}, "none can be delayed"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create(**options)
