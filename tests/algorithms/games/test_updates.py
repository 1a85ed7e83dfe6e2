"""Exact updates: known vectors, fixed points, rates, and where each algorithm fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from algorithms.games import (
    Algorithm,
    FloatArray,
    Game,
    Magnet,
    State,
    average_policy,
    create,
    cyclic_game,
    kl,
    names,
    regularised_equilibrium,
    trajectory,
    uniform_game,
)
from algorithms.games.stability import egpo_factor, modes
from algorithms.games.step_sizes import hedge_step

Gaps = Callable[[Algorithm, Game, Sequence[int]], list[float]]
Run = Callable[[Algorithm, Game, int], list[FloatArray]]

VECTORS = {
    "omd": (
        [0.5145235311, 0.2765566455, 0.2089198234],
        [0.5230341036, 0.2599098828, 0.2170560136],
        0.0064613658623822,
    ),
    "nash_md": (
        [0.5145235311, 0.2765566455, 0.2089198234],
        [0.5234634555, 0.2598641823, 0.2166723621],
        0.0065219582272649,
    ),
    "mmd": (
        [0.5116959778, 0.2811546944, 0.2071493278],
        [0.5194964116, 0.2667222987, 0.2137812896],
        0.0083259565914170,
    ),
    "egpo": (
        [0.5128168891, 0.2767479424, 0.2104351685],
        [0.5203207069, 0.2604239732, 0.2192553199],
        0.0061799923292939,
    ),
    "mwu": (
        [0.5145235311, 0.2765566455, 0.2089198234],
        [0.5263154965, 0.2544461273, 0.2192383762],
        0.0052425666960168,
    ),
    "omwu": (
        [0.5145235311, 0.2765566455, 0.2089198234],
        [0.5245590216, 0.2546169268, 0.2208240516],
        0.0050020204317718,
    ),
}


@pytest.mark.parametrize("name", VECTORS)
def test_known_vectors(name: str, example: Game, run: Run) -> None:
    one, two, gap = VECTORS[name]
    _, first, second = run(create(name, step_size=0.5), example, 2)
    assert np.exp(first) == pytest.approx(one, abs=1e-9)
    assert np.exp(second) == pytest.approx(two, abs=1e-9)
    assert example.duality_gap(second) == pytest.approx(gap, abs=1e-12)


def test_known_vectors_with_momentum(example: Game, run: Run) -> None:
    _, first, second = run(create("mwu", step_size=0.5, momentum=0.3), example, 2)
    assert np.exp(first) == pytest.approx([0.5186913036, 0.2697466787, 0.2115620177], abs=1e-9)
    assert np.exp(second) == pytest.approx([0.5338308533, 0.239874817, 0.2262943297], abs=1e-9)
    assert example.duality_gap(second) == pytest.approx(0.0026639403046358, abs=1e-12)


@pytest.mark.parametrize("name", ["omd", "mmd", "egpo", "past_extragradient", "best_response"])
def test_the_equilibrium_is_a_fixed_point(name: str) -> None:
    game = cyclic_game(9, beta=0.2)
    algorithm = create(name, step_size=None if name == "best_response" else 0.7)
    state = State(log_policy=regularised_equilibrium(game).log_policy)
    for _ in range(3):
        state = algorithm.step(game, state)
    assert game.duality_gap(state.log_policy) < 1e-24


def test_nash_md_has_another_fixed_point_unless_its_step_decays(last_gaps: Gaps, run: Run) -> None:
    game = cyclic_game(10, beta=0.1)
    policy = run(create("nash_md", step_size=1.0), game, 800)[-1]
    floor = game.duality_gap(policy)
    assert floor > 1e-5
    mixture = 0.9 * policy + 0.1 * game.reference
    mixture = mixture - np.log(np.sum(np.exp(mixture)))
    claimed = game.reference + game.win_rates(mixture) / game.beta
    assert np.ptp(policy - claimed) < 1e-9
    assert last_gaps(create("nash_md", step_size="decaying"), game, [800])[0] < floor / 50.0
    assert last_gaps(create("omd", step_size=1.0), game, [800])[0] < 1e-12


@pytest.mark.parametrize("step_size", ["extragradient", 1.0])
@pytest.mark.parametrize(("actions", "beta"), [(10, 0.1), (100, 0.1), (10, 0.01), (100, 0.01)])
def test_extragradient_converges_linearly(actions: int, beta: float, step_size: float | str) -> None:
    game = uniform_game(actions, beta=beta, seed=1)
    equilibrium = regularised_equilibrium(game).log_policy
    eta = 1.0 / (beta + 3.0) if isinstance(step_size, str) else step_size
    rate = 1.0 - eta * beta
    divergences = []
    for state in trajectory(create("egpo", step_size=step_size), game):
        divergences.append(kl(equilibrium, state.log_policy))
        if divergences[-1] < 1e-18:
            break
    updates = np.arange(len(divergences))
    assert np.all(np.array(divergences[1:]) <= divergences[0] * rate ** updates[1:])
    tail = slice(3 * len(updates) // 4, None)
    fitted = np.exp(np.polyfit(updates[tail], np.log(divergences[tail]), 1)[0])
    assert fitted == pytest.approx(rate**2, abs=0.03 * (1.0 - rate**2))
    factors = egpo_factor(eta, beta, np.append(modes(game, equilibrium), 0.0))
    assert np.max(factors) == pytest.approx(rate, abs=1e-12)


def test_mirror_descent_diverges_on_a_cycle_where_extragradient_converges(last_gaps: Gaps) -> None:
    for seed in range(2):
        for actions in (10, 100):
            game = cyclic_game(actions, beta=0.01, seed=seed)
            start, late = last_gaps(create("omd", step_size=1.0), game, [0, 1000])
            assert late > max(0.4, 1.5 * start)
            for name in ("egpo", "past_extragradient"):
                assert last_gaps(create(name, step_size=1.0), game, [1000])[0] < 1e-9


def test_iterating_the_best_response_converges_only_for_large_beta(last_gaps: Gaps) -> None:
    algorithm = create("best_response")
    assert last_gaps(algorithm, cyclic_game(10, beta=1.0), [100])[0] < 1e-20
    assert last_gaps(algorithm, cyclic_game(10, beta=0.01), [100])[0] > 0.3


def test_multiplicative_weights_converges_in_average_and_not_in_last_iterate(run: Run) -> None:
    for seed in range(3):
        game = cyclic_game(10, beta=0.1, seed=seed)
        visited = run(create("sppo", step_size=1.0), game, 1000)
        gaps = [game.unregularised_gap(visited[updates]) for updates in (10, 100, 1000)]
        averages = [game.unregularised_gap(average_policy(visited[: n + 1])) for n in (10, 100, 1000)]
        assert gaps[2] > gaps[0]
        assert gaps[2] > 0.5
        assert averages[0] > averages[1] > averages[2]
        assert averages[2] < 0.06


@pytest.mark.parametrize("step_size", [0.125, 1.0])
def test_averages_obey_the_regret_bound(step_size: float, run: Run) -> None:
    game, updates = uniform_game(20, beta=0.1, seed=2, reference_scale=0.0), 400
    visited = run(create("mwu", step_size=step_size), game, updates - 1)
    bound = 2.0 * (np.log(20) / (step_size * updates) + step_size / 8.0)
    assert game.unregularised_gap(average_policy(visited)) <= bound
    tuned = run(create("mwu", step_size=hedge_step(updates)), game, updates - 1)
    assert game.unregularised_gap(average_policy(tuned)) <= 2.0 * np.sqrt(np.log(20) / (2 * updates))


def test_optimism_and_magnets_converge_in_the_last_iterate(run: Run) -> None:
    for generator in (uniform_game, cyclic_game):
        for algorithm in (
            create("omwu", step_size=1.0),
            create("egpo", step_size=1.0, magnet_every=20),
            create("mpo", step_size=0.3, magnet_every=50),
        ):
            gaps = []
            for seed in range(3):
                game = generator(10, beta=0.1, seed=seed)
                visited = run(algorithm, game, 1000)
                gaps.append([game.unregularised_gap(visited[updates]) for updates in (10, 100, 1000)])
            early, middle, late = np.exp(np.mean(np.log(gaps), axis=0))
            assert early > middle > late
            assert late < 0.25 * early


def test_a_fixed_reference_leaves_the_bias_that_a_magnet_removes(run: Run) -> None:
    game = cyclic_game(10, beta=0.1, seed=1)
    fixed = game.unregularised_gap(run(create("egpo", step_size=1.0), game, 2000)[-1])
    moved = game.unregularised_gap(run(create("egpo", step_size=1.0, magnet_every=20), game, 2000)[-1])
    assert fixed == pytest.approx(game.unregularised_gap(regularised_equilibrium(game).log_policy), rel=1e-6)
    assert moved < fixed / 5.0


def test_a_magnet_restarts_the_inner_algorithm_from_where_it_stands(run: Run) -> None:
    game = uniform_game(6, beta=0.3)
    visited = run(create("comal", step_size="decaying", magnet_every=3), game, 6)
    first = run(create("omd", step_size="decaying"), game, 3)
    second = run(create("omd", step_size="decaying"), game.with_reference(first[-1]), 3)
    assert np.allclose(visited, [*first, *second[1:]], rtol=0.0, atol=1e-13)


def test_optimistic_weights_equal_their_two_policy_form(run: Run) -> None:
    game, eta = uniform_game(7, beta=1.0), 0.6
    auxiliary = game.reference
    previous = game.win_rates(game.reference)
    for policy in run(create("onpo", step_size=eta), game, 8)[1:]:
        current = auxiliary + eta * previous
        assert np.ptp(policy - current) < 1e-12
        previous = game.win_rates(policy)
        auxiliary = auxiliary + eta * previous


def test_past_extragradient_reuses_the_last_half_step() -> None:
    game, eta = cyclic_game(5, beta=0.2), 0.8
    seen: list[FloatArray] = []

    def observe(role: str, opponent: FloatArray) -> FloatArray:
        assert role == "half"
        seen.append(opponent)
        return game.win_rates(opponent)

    algorithm = create("past_extragradient", step_size=eta)
    state, previous = algorithm.start(game), game.win_rates(game.reference)
    for step in range(4):
        base = (1 - eta * game.beta) * state.log_policy + eta * game.beta * game.reference
        half = base + eta * previous
        state = algorithm.advance(game, state, observe)
        assert len(seen) == step + 1
        assert np.ptp(seen[-1] - half) < 1e-12
        previous = game.win_rates(seen[-1])
        assert np.ptp(state.log_policy - base - eta * previous) < 1e-12


@pytest.mark.parametrize("name", ["omd", "nash_md", "egpo", "past_extragradient"])
def test_too_large_a_step_is_refused_where_the_form_requires_it(name: str, example: Game) -> None:
    algorithm = create(name, step_size=2.5)
    with pytest.raises(ValueError, match=r"needs eta \* beta <= 1, got eta = 2.5, beta = 0.5 .*eta <= 2"):
        algorithm.step(example, algorithm.start(example))
    largest = create(name, step_size=2.0)
    assert np.all(np.isfinite(largest.step(example, largest.start(example)).log_policy))


@pytest.mark.parametrize("name", ["mmd", "mwu", "omwu"])
def test_other_forms_take_any_step(name: str, example: Game) -> None:
    algorithm = create(name, step_size=2.5)
    assert np.all(np.isfinite(algorithm.step(example, algorithm.start(example)).log_policy))


@pytest.mark.parametrize("step_size", [0.0, -1.0, np.nan, np.inf])
def test_a_step_size_is_positive(step_size: float, example: Game) -> None:
    algorithm = create("mwu", step_size=step_size)
    with pytest.raises(ValueError, match="step size must be positive"):
        algorithm.step(example, algorithm.start(example))


def test_a_policy_of_another_game_is_refused(example: Game) -> None:
    with pytest.raises(ValueError, match=r"shape \(4,\), the game has 3 actions"):
        create("mwu", step_size=1.0).step(example, State(log_policy=np.log(np.full(4, 0.25))))


def test_a_magnet_that_never_moves_is_refused() -> None:
    with pytest.raises(ValueError, match="got 0"):
        Magnet(inner=create("omd", step_size=1.0), every=0)


def test_nothing_to_average_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got shape \(0,\)"):
        average_policy([])


@pytest.mark.parametrize("name", [name for name in names() if "dpo" not in name])
def test_a_thousand_actions_at_a_thousandth_stay_finite(name: str, big: Game) -> None:
    solved = name == "best_response"
    magnet = 5 if name in ("mpo", "comal") else None
    algorithm = create(name, step_size=None if solved else 20.0, magnet_every=magnet, momentum=0.5)
    for state in trajectory(algorithm, big, 25):
        assert np.all(np.isfinite(state.log_policy))
        assert np.sum(np.exp(state.log_policy)) == pytest.approx(1.0, abs=1e-12)
        assert np.isfinite(big.duality_gap(state.log_policy))


@pytest.fixture(scope="module")
def big() -> Game:
    """A thousand actions, beta a thousandth, and preferences that include certainties."""
    return cyclic_game(1000, beta=1e-3, noise=0.2)
