"""Stale opponents, the stability they allow, and the extrapolation that makes up for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest

from algorithms.games import (
    Algorithm,
    Delayed,
    FloatArray,
    Game,
    Momentum,
    State,
    create,
    cyclic_game,
    delay_compensated,
    log_normalise,
    regularised_equilibrium,
    rock_paper_scissors,
    uniform_game,
)
from algorithms.games.stability import (
    LARGEST_ROTATION,
    Method,
    delay_limit,
    egpo_factor,
    largest_stable_delay,
    modes,
    omd_factor,
    safe_delay,
    spectral_radius,
)

Gaps = Callable[[Algorithm, Game, Sequence[int]], list[float]]
Run = Callable[[Algorithm, Game, int], list[FloatArray]]


def test_opponents_are_exactly_d_updates_old(run: Run) -> None:
    game, eta, delay = cyclic_game(5, beta=0.2), 0.5, 3
    share = eta * game.beta
    for compensation in (0.0, 4.0):
        visited = run(Delayed(inner=create("omd", step_size=eta), delay=delay, extrapolation=compensation), game, 9)
        for t in range(9):
            old, older = visited[max(t - delay, 0)], visited[max(t - delay - 1, 0)]
            seen = game.win_rates(old) + compensation * (game.win_rates(old) - game.win_rates(older))
            wanted = log_normalise((1 - share) * visited[t] + share * game.reference + eta * seen)
            assert np.allclose(visited[t + 1], wanted, rtol=0.0, atol=1e-13)


def test_both_opponents_of_extragradient_are_delayed(run: Run) -> None:
    game, eta, delay = cyclic_game(5, beta=0.2), 0.5, 2
    visited, halves = run(create("egpo", step_size=eta, delay=delay), game, 8), []
    for t in range(8):
        base = (1 - eta * game.beta) * visited[t] + eta * game.beta * game.reference
        halves.append(log_normalise(base + eta * game.win_rates(visited[max(t - delay, 0)])))
        wanted = log_normalise(base + eta * game.win_rates(halves[max(t - delay, 0)]))
        assert np.allclose(visited[t + 1], wanted, rtol=0.0, atol=1e-13)


def test_momentum_and_delay_combine_in_either_order(run: Run) -> None:
    game, inner = uniform_game(6, beta=0.2), create("egpo", step_size=0.5)
    one = Delayed(inner=Momentum(inner=inner, coefficient=0.3), delay=2)
    other = Momentum(inner=Delayed(inner=inner, delay=2), coefficient=0.3)
    assert np.allclose(run(one, game, 10), run(other, game, 10), rtol=0.0, atol=1e-13)


def test_extragradient_with_a_stale_opponent_is_like_mirror_descent_with_a_fresher_one(
    last_gaps: Gaps,
) -> None:
    for seed in range(2):
        game = cyclic_game(10, beta=0.01, seed=seed)
        extra = [last_gaps(create("egpo", step_size=0.1, delay=d), game, [1000])[0] for d in range(5)]
        plain = [last_gaps(create("omd", step_size=0.1, delay=d), game, [1000])[0] for d in range(4)]
        assert extra[1:] == pytest.approx(plain, rel=0.2)
        assert all(old < new for old, new in pairwise(extra))
        assert extra[0] < 0.75 * plain[0]


def test_staleness_takes_the_benefit_of_extragradient_away(last_gaps: Gaps) -> None:
    game = cyclic_game(10, beta=0.01, seed=1)
    gaps = [last_gaps(create("egpo", step_size=0.3, delay=d), game, [1000])[0] for d in (0, 1, 2)]
    assert gaps[0] < 1e-3
    assert gaps[1] > 0.02
    assert gaps[2] > 0.4


def test_a_transitive_enough_game_tolerates_long_delays(last_gaps: Gaps) -> None:
    game = uniform_game(100, beta=0.1, seed=1)
    assert last_gaps(create("egpo", step_size=1.0, delay=8), game, [600])[0] < 1e-14


def test_compensation_restores_convergence(last_gaps: Gaps) -> None:
    for seed in range(2):
        game = cyclic_game(10, beta=0.01, seed=seed)
        fresh = last_gaps(create("egpo", step_size=0.3), game, [1000])[0]
        for delay in (1, 2):
            stale = last_gaps(create("egpo", step_size=0.3, delay=delay), game, [1000])[0]
            mended = last_gaps(delay_compensated(step_size=0.3, delay=delay), game, [1000])[0]
            assert mended < 0.05 * stale
            assert mended == pytest.approx(fresh, rel=0.5)
        assert last_gaps(delay_compensated(step_size=1.0, delay=4), game, [1000])[0] > 0.3


@pytest.mark.parametrize("actions", [2, 3, 6, 9])
def test_modes_are_the_eigenvalues_of_the_win_rates_derivative(actions: int) -> None:
    game = cyclic_game(actions, beta=0.1, seed=2)
    policy = regularised_equilibrium(game).log_policy
    p = np.exp(policy)
    eigenvalues = np.linalg.eigvals(game.preference @ (np.diag(p) - np.outer(p, p)))
    assert np.max(np.abs(eigenvalues.real)) < 1e-8
    speeds = np.sort(np.abs(eigenvalues.imag))[::-1]
    assert modes(game, policy) == pytest.approx(speeds[: 2 * (actions // 2) : 2], abs=1e-8)
    assert np.all(modes(game, policy) <= LARGEST_ROTATION)


def test_certain_rock_paper_scissors_rotates_at_its_known_speed() -> None:
    game = rock_paper_scissors(beta=1.0)
    speed = modes(game, regularised_equilibrium(game).log_policy)
    assert speed == pytest.approx([np.sqrt(3.0) / 6.0], abs=1e-12)


def numerical_jacobian(algorithm: Algorithm, game: Game, log_policy: FloatArray) -> FloatArray:
    columns = []
    for direction in 1e-5 * np.eye(game.actions):
        up = algorithm.step(game, State(log_policy=log_normalise(log_policy + direction))).log_policy
        down = algorithm.step(game, State(log_policy=log_normalise(log_policy - direction))).log_policy
        columns.append((up - down) / 2e-5)
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("eta", [0.3, 1.0, 3.0])
def test_stability_factors_are_those_of_the_real_update(eta: float) -> None:
    for game in (cyclic_game(7, beta=0.05, seed=1), uniform_game(8, beta=0.3, seed=1)):
        policy = regularised_equilibrium(game).log_policy
        speeds = modes(game, policy)
        for name, factor in (("omd", omd_factor), ("egpo", egpo_factor)):
            jacobian = numerical_jacobian(create(name, step_size=eta), game, policy)
            radius = np.max(np.abs(np.linalg.eigvals(jacobian)))
            assert np.max(factor(eta, game.beta, speeds)) == pytest.approx(radius, abs=1e-6)


def test_mirror_descent_is_stable_exactly_below_its_limit() -> None:
    beta, s = 0.02, 0.24
    limit = 2.0 * beta / (beta**2 + s**2)
    assert omd_factor(0.999 * limit, beta, s) < 1.0 < omd_factor(1.001 * limit, beta, s)
    assert np.all(egpo_factor(0.99 / s, beta, np.linspace(0.0, s, 50)) < 1.0)


def delayed_matrix(
    method: str, eta: float, beta: float, slope: FloatArray, delay: int, extrapolation: float
) -> npt.NDArray[np.float64]:
    """The linearised update as one matrix on (theta_t, ..., theta_{t-m}, h_{t-1}, ..., h_{t-m})."""
    n, memory = len(slope), delay + 2
    eye, size = np.eye(n), (2 * memory + 1) * n
    theta = [np.zeros((n, size)) for _ in range(memory + 1)]
    half = [np.zeros((n, size)) for _ in range(memory + 1)]
    for k in range(memory + 1):
        theta[k][:, k * n : (k + 1) * n] = eye
    for k in range(1, memory + 1):
        half[k][:, (memory + k) * n : (memory + k + 1) * n] = eye

    def look(signal: list[FloatArray]) -> FloatArray:
        seen = signal[delay] + extrapolation * (signal[delay] - signal[delay + 1])
        return eta * slope @ seen

    half[0] = (1 - eta * beta) * theta[0] + look(theta)
    new = half[0] if method == "omd" else (1 - eta * beta) * theta[0] + look(half)
    return np.concatenate([new, *theta[:memory], *half[:memory]])


@pytest.mark.parametrize("method", ["omd", "egpo"])
@pytest.mark.parametrize(("delay", "extrapolation"), [(0, 0.0), (1, 0.0), (5, 0.0), (0, 1.0), (3, 4.0), (2, 1.5)])
def test_spectral_radius_is_exact(method: Method, delay: int, extrapolation: float) -> None:
    eta, game = 0.7, cyclic_game(6, beta=0.1, seed=3)
    policy = regularised_equilibrium(game).log_policy
    p = np.exp(policy)
    matrix = delayed_matrix(
        method, eta, game.beta, game.preference @ (np.diag(p) - np.outer(p, p)), delay, extrapolation
    )
    exact = np.max(np.abs(np.linalg.eigvals(matrix)))
    radius = spectral_radius(method, eta, game.beta, modes(game, policy), delay=delay, extrapolation=extrapolation)
    assert radius == pytest.approx(exact, abs=1e-6)


@pytest.mark.parametrize("method", ["omd", "egpo"])
@pytest.mark.parametrize("delay", [1, 6, 12])
def test_spectral_radius_is_the_growth_of_a_small_error(method: Method, delay: int) -> None:
    eta, game = 0.3, cyclic_game(9, beta=0.1, seed=1)
    equilibrium = regularised_equilibrium(game).log_policy
    radius = spectral_radius(method, eta, game.beta, modes(game, equilibrium), delay=delay)
    algorithm = create(method, step_size=eta, delay=delay)
    nudge = 1e-7 * np.random.default_rng(0).normal(size=game.actions)
    state, errors = State(log_policy=log_normalise(equilibrium + nudge)), []
    for _ in range(240):
        state = algorithm.step(game, state)
        errors.append(float(np.linalg.norm(state.log_policy - equilibrium)))
    fitted = np.exp(np.polyfit(np.arange(140), np.log(errors[100:]), 1)[0])
    assert fitted == pytest.approx(radius, abs=4e-3)


def test_the_delay_rule_predicts_the_largest_stable_delay() -> None:
    for seed in range(3):
        game = cyclic_game(10, beta=0.1, seed=seed)
        speeds = modes(game, regularised_equilibrium(game).log_policy)
        for eta in (0.1, 0.3, 1.0):
            plain = largest_stable_delay("omd", eta, game.beta, speeds)
            extra = largest_stable_delay("egpo", eta, game.beta, speeds)
            assert plain is not None
            assert extra is not None
            assert extra - plain in (0, 1)
            for method, found in (("omd", plain), ("egpo", extra)):
                rule = delay_limit(method, eta, game.beta, float(speeds[0]))  # type: ignore[arg-type]
                assert abs(found - np.floor(rule)) <= max(1.0, 0.2 * rule)


def test_without_regularisation_to_speak_of_no_delay_is_stable() -> None:
    speeds = [0.25]
    assert largest_stable_delay("omd", 1.0, 0.01, speeds) is None
    assert largest_stable_delay("egpo", 1.0, 0.01, speeds) == 0
    assert largest_stable_delay("egpo", 0.01, 0.1, speeds, limit=7) == 7


def test_a_run_converges_up_to_the_largest_stable_delay_and_not_beyond(last_gaps: Gaps) -> None:
    game = cyclic_game(10, beta=0.1, seed=1)
    speeds = modes(game, regularised_equilibrium(game).log_policy)
    for method in ("omd", "egpo"):
        limit = largest_stable_delay(method, 0.3, game.beta, speeds)
        assert limit is not None
        assert last_gaps(create(method, step_size=0.3, delay=limit - 1), game, [1500])[0] < 1e-6
        assert last_gaps(create(method, step_size=0.3, delay=limit + 2), game, [1500])[0] > 1e-2


@pytest.mark.parametrize(("method", "sign"), [("omd", -1), ("egpo", 1)])
def test_the_safe_delay_holds_for_the_fastest_possible_rotation(method: Method, sign: int) -> None:
    assert safe_delay(method, 0.5, 0.1) == pytest.approx(1.6 + sign * 0.5, abs=1e-12)
    for beta in (0.01, 0.03, 0.1, 0.3):
        for eta in (0.03, 0.1, 0.3, 1.0):
            for delay in range(int(np.ceil(safe_delay(method, eta, beta) - 0.5))):
                assert spectral_radius(method, eta, beta, LARGEST_ROTATION, delay=delay) < 1.0


def test_a_mode_that_does_not_rotate_tolerates_every_delay() -> None:
    assert delay_limit("omd", 1.0, 0.1, 0.0) == np.inf
    assert spectral_radius("egpo", 1.0, 0.1, 0.0, delay=40) == pytest.approx(0.9, abs=1e-12)


def test_bad_input_is_refused() -> None:
    inner = create("omd", step_size=1.0)
    with pytest.raises(ValueError, match="got -1"):
        Delayed(inner=inner, delay=-1)
    with pytest.raises(ValueError, match="extrapolation must be 0 or more updates, got nan"):
        Delayed(inner=inner, delay=1, extrapolation=np.nan)
    with pytest.raises(ValueError, match="already delayed by 2"):
        Delayed(inner=Momentum(inner=Delayed(inner=inner, delay=2), coefficient=0.1), delay=1)
    with pytest.raises(ValueError, match="OnlineDPO has no opponent"):
        Delayed(inner=create("online_dpo"), delay=1)
    with pytest.raises(ValueError, match="'omd' or 'egpo', got 'mwu'"):
        spectral_radius("mwu", 1.0, 0.1, 0.2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be positive, got 0"):
        safe_delay("omd", 0.0, 0.1)
