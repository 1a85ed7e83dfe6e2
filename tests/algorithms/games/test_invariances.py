"""What no algorithm may depend on: the order of actions, shifts of win rates, clones, wrappers at rest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.games import (
    GENERATORS,
    Algorithm,
    Delayed,
    FloatArray,
    Game,
    Momentum,
    State,
    create,
    names,
    regularised_equilibrium,
    trajectory,
)


def build(name: str, momentum: float = 0.0, delay: int = 0) -> Algorithm:
    solved = name in ("best_response", "online_dpo", "iterative_dpo")
    return create(
        name,
        step_size=None if solved else 0.6,
        magnet_every=2 if name in ("mpo", "comal") else None,
        momentum=momentum,
        delay=0 if "dpo" in name else delay,
    )


games = st.builds(
    lambda name, actions, beta, seed: GENERATORS[name](actions, beta=beta, seed=seed),
    st.sampled_from(["uniform", "cyclic", "bradley_terry"]),
    st.integers(2, 7),
    st.floats(0.05, 1.5),
    st.integers(0, 10_000),
)
algorithms = st.builds(build, st.sampled_from(names()), st.sampled_from([0.0, 0.4]), st.integers(0, 2))
quick = settings(max_examples=60, deadline=None, derandomize=True)


def last(algorithm: Algorithm, game: Game, updates: int = 4) -> FloatArray:
    *_, state = trajectory(algorithm, game, updates)
    return state.log_policy


@quick
@given(game=games, algorithm=algorithms, data=st.data())
def test_permuting_the_actions_permutes_the_policy(game: Game, algorithm: Algorithm, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(game.actions)))
    permuted = game.permuted(order)
    assert last(algorithm, permuted) == pytest.approx(last(algorithm, game)[list(order)], abs=1e-6)
    moved = regularised_equilibrium(permuted).log_policy
    assert moved == pytest.approx(regularised_equilibrium(game).log_policy[list(order)], abs=1e-9)


@quick
@given(game=games, algorithm=algorithms, shift=st.floats(-1.0, 1.0))
def test_only_differences_of_win_rates_matter(game: Game, algorithm: Algorithm, shift: float) -> None:
    plain = shifted = algorithm.start(game)
    for _ in range(4):
        plain = algorithm.step(game, plain)
        shifted = algorithm.advance(game, shifted, lambda role, opponent: game.win_rates(opponent) + shift)
    assert shifted.log_policy == pytest.approx(plain.log_policy, abs=1e-9)


@quick
@given(game=games, algorithm=algorithms, share=st.floats(0.1, 0.9))
def test_a_clone_of_an_action_shares_its_probability(game: Game, algorithm: Algorithm, share: float) -> None:
    index = [*range(game.actions), 0]
    reference = game.reference[index].copy()
    reference[0] += np.log(share)
    reference[-1] += np.log1p(-share)
    cloned = Game(preference=game.preference[np.ix_(index, index)], reference=reference, beta=game.beta)
    policy, original = last(algorithm, cloned), last(algorithm, game)
    merged = np.append(np.logaddexp(policy[0], policy[-1]), policy[1:-1])
    assert merged == pytest.approx(original, abs=1e-6)


@quick
@given(game=games, name=st.sampled_from(names()))
def test_wrappers_at_rest_change_nothing(game: Game, name: str) -> None:
    inner = build(name)
    wrapped: list[Algorithm] = [Momentum(inner=inner, coefficient=0.0)]
    if inner.roles:
        wrapped.append(Delayed(inner=inner, delay=0))
    for algorithm in wrapped:
        assert np.allclose(last(algorithm, game), last(inner, game), rtol=0.0, atol=1e-12)


@quick
@given(game=games, algorithm=algorithms)
def test_policies_are_normalised_and_states_untouched(game: Game, algorithm: Algorithm) -> None:
    state = algorithm.start(game)
    for update in range(4):
        before = (state.log_policy.copy(), {key: value.copy() for key, value in state.memory.items()})
        following = algorithm.step(game, state)
        assert following.updates == state.updates + 1 == update + 1
        assert np.array_equal(state.log_policy, before[0])
        assert state.memory.keys() == before[1].keys()
        assert all(np.array_equal(state.memory[key], value) for key, value in before[1].items())
        repeated = algorithm.step(game, State(log_policy=before[0], updates=update, memory=before[1]))
        assert np.array_equal(repeated.log_policy, following.log_policy)
        state = following
        assert np.sum(np.exp(state.log_policy)) == pytest.approx(1.0, abs=1e-12)


@quick
@given(game=games, seed=st.integers(0, 1000))
def test_no_policy_beats_itself(game: Game, seed: int) -> None:
    assert np.all(np.diag(game.preference) == 0.5)
    weights = np.random.default_rng(seed).normal(size=game.actions)
    policy = game.with_reference(weights - np.log(np.sum(np.exp(weights)))).reference
    assert game.payoff(policy, policy) == pytest.approx(0.5, abs=1e-12)
    assert game.duality_gap(policy) >= 0.0
    assert game.unregularised_gap(policy) >= 0.0


@quick
@given(game=games)
def test_an_even_game_moves_nobody(game: Game) -> None:
    even = Game(preference=np.full_like(game.preference, 0.5), reference=game.reference, beta=game.beta)
    for name in names():
        assert last(build(name, momentum=0.4), even) == pytest.approx(game.reference, abs=1e-12)
