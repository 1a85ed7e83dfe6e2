"""Each objective's minimiser, and its step, are the exact updates of the preference game."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit
from torch import Tensor

from algorithms.games import Algorithm, FloatArray, Game, State, create, cyclic_game, log_normalise, uniform_game
from algorithms.objective import Objective, build_objective
from tests.algorithms.objectives.tabular import gradient_step, mean_loss, pairs_of, train
from tests.algorithms.pair_examples import random_pairs

ACTIONS, BETA, ETA, UPDATES = 6, 0.4, 0.7, 8
GAME = uniform_game(ACTIONS, beta=BETA, seed=2)
START = log_normalise(np.random.default_rng(0).normal(size=ACTIONS))

# Objective with three samples, its options, and the exact update whose step its gradient is.
REGRESSIONS: dict[str, tuple[str, dict[str, Any], Algorithm]] = {
    "egpo": ("egpo", {"beta": BETA}, create("egpo", step_size=ETA)),
    "egpo, alternating": ("egpo", {"beta": BETA, "alternate": True}, create("egpo", step_size=ETA)),
    "past_egpo": ("past_egpo", {"beta": BETA}, create("past_extragradient", step_size=ETA)),
    "optimistic_egpo": ("optimistic_egpo", {"beta": BETA}, create("omd", step_size=ETA, extrapolation=1.0)),
    "optimistic, k = 3": (
        "optimistic_egpo",
        {"beta": BETA, "extrapolation": 3.0},
        create("omd", step_size=ETA, extrapolation=3.0),
    ),
    "online_ipo": ("online_ipo", {"beta": BETA}, create("online_ipo", step_size=ETA)),
    "online_ipo with momentum": (
        "online_ipo",
        {"beta": BETA, "momentum": 0.3},
        create("omd", step_size=ETA, momentum=0.3),
    ),
    "dno": ("dno", {"win_rates": "opponents", "loss": "regression"}, create("dno", step_size=ETA)),
    "dno with momentum": (
        "dno",
        {"win_rates": "opponents", "loss": "regression", "momentum": 0.4},
        create("dno", step_size=ETA, momentum=0.4),
    ),
    "onpo": ("onpo", {"win_rates": "opponents"}, create("onpo", step_size=ETA)),
}


def objective_of(name: str, options: dict[str, Any]) -> Objective:
    return build_objective(name, {"candidates": ACTIONS, **options})


def states(algorithm: Algorithm, state: State, updates: int) -> list[State]:
    visited = [state]
    for _ in range(updates):
        visited.append(algorithm.step(GAME, visited[-1]))
    return visited


def exact(name: str, algorithm: Algorithm) -> list[FloatArray]:
    """The policies that the learner's rule visits, from its start on."""
    start = State(log_policy=log_normalise(GAME.reference))
    if name == "past_egpo":
        return look_aheads(algorithm)
    if name == "onpo":
        # Both policies take the first step, so what is published starts with two.
        win_rates = GAME.win_rates(start.log_policy)
        second = State(
            log_policy=log_normalise(start.log_policy + 2.0 * ETA * win_rates), memory={"past_win_rates": win_rates}
        )
        return [start.log_policy, *(state.log_policy for state in states(algorithm, second, UPDATES - 1))]
    return [state.log_policy for state in states(algorithm, start, UPDATES)]


def look_aheads(algorithm: Algorithm) -> list[FloatArray]:
    """The opponents that past extragradient meets; the first look-ahead of the learner is the start itself."""
    met = [GAME.reference]
    first = create("omd", step_size=ETA).step(GAME, State(log_policy=GAME.reference))
    state = replace(first, memory={"past_half_win_rates": GAME.win_rates(GAME.reference)})

    def observe(role: str, opponent: FloatArray) -> FloatArray:
        met.append(opponent)
        return GAME.win_rates(opponent)

    for _ in range(UPDATES):
        state = algorithm.advance(GAME, state, observe)
    return met


@pytest.mark.parametrize("case", REGRESSIONS)
def test_gradient_descent_under_the_update_rule_is_the_exact_algorithm(case: str) -> None:
    name, options, algorithm = REGRESSIONS[case]
    found = train(objective_of(name, options), GAME, GAME.reference, UPDATES, ETA)
    for wanted, policy in zip(exact(name, algorithm), found, strict=True):
        assert policy == pytest.approx(wanted, abs=1e-12)


def test_inpo_goes_the_share_of_its_step_that_the_learning_rate_allows() -> None:
    """At pi_t the anchor's part is (pi_t - mu) eta beta: any rate gives a mirror step, the full one that of eta."""
    inpo = objective_of("inpo", {"win_rates": "opponents", "beta": BETA, "step_size": 2.0})
    for eta in (0.3, 2.0):
        found = train(inpo, GAME, START, UPDATES, eta)
        wanted = states(create("inpo", step_size=eta), State(log_policy=START), UPDATES)
        for policy, state in zip(found, wanted, strict=True):
            assert policy == pytest.approx(state.log_policy, abs=1e-12)


# Objective, options, and the anchor's share of the reference, scale and opponent of its minimiser.
MINIMISERS: dict[str, tuple[str, dict[str, Any], float, float]] = {
    "egpo": ("egpo", {"beta": BETA}, 1.0, 1.0 / BETA),
    "egpo huber": ("egpo", {"beta": BETA, "link": "huber", "huber_delta": 0.1}, 1.0, 1.0 / BETA),
    "past_egpo": ("past_egpo", {"beta": BETA}, 1.0, 1.0 / BETA),
    "online_ipo": ("online_ipo", {"beta": BETA}, 1.0, 1.0 / BETA),
    "copg": ("copg", {"beta": BETA}, 1.0, 1.0 / BETA),
    "inpo": ("inpo", {"win_rates": "opponents", "beta": BETA, "step_size": 2.0}, 0.8, 2.0),
    "dno": ("dno", {"win_rates": "opponents", "step_size": 2.0}, 0.0, 2.0),
    "dno regression": ("dno", {"win_rates": "opponents", "step_size": 2.0, "loss": "regression"}, 0.0, 2.0),
    "onpo": ("onpo", {"win_rates": "opponents", "step_size": 2.0}, 0.0, 2.0),
}


def policies_of(seed: int) -> dict[str, FloatArray]:
    random = np.random.default_rng(seed)
    names = ("current", "half", "iterate", "previous(1)", "mixture")
    return {name: log_normalise(random.normal(size=ACTIONS)) for name in names} | {"reference": GAME.reference}


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("case", MINIMISERS)
def test_the_minimiser_is_anchor_plus_scaled_win_rates_for_any_pair_distribution(case: str, version: int) -> None:
    """In INPO's case that is OMD; anchored to the reference, the best response; to the iterate, MWU."""
    name, options, share, scale = MINIMISERS[case]
    objective, policies = objective_of(name, options), policies_of(5)
    opponent = policies[objective.sampling.roles[1].policy_at(version)]
    anchor = share * GAME.reference + (1.0 - share) * policies["iterate"]
    wanted = log_normalise(anchor + scale * GAME.win_rates(opponent))
    pairs = pairs_of(objective, GAME, policies, version)
    uneven = pairs.weighted(np.random.default_rng(1).uniform(0.1, 2.0, len(pairs)), 1.0)
    for distribution in (pairs, uneven):
        logits = torch.tensor(wanted, requires_grad=True)
        loss = mean_loss(objective, GAME, distribution, logits, torch.tensor(policies["iterate"]))
        (gradient,) = torch.autograd.grad(loss, logits)
        assert gradient.abs().max() < 1e-13
        for direction in np.eye(ACTIONS):
            moved = torch.tensor(wanted + 0.1 * direction)
            assert mean_loss(objective, GAME, distribution, moved, torch.tensor(policies["iterate"])) > loss + 1e-5


@pytest.mark.parametrize("case", MINIMISERS)
def test_gradients_match_finite_differences(case: str) -> None:
    name, options, _, _ = MINIMISERS[case]
    assert_gradient_is_numerical(objective_of(name, options))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("optimistic_egpo", {}),
        ("online_ipo", {"target_clip": 1.0}),
        ("online_ipo", {"length_averaged": True}),
        ("sppo", {"win_rates": "opponents", "pair_choice": "all"}),
        ("sppo", {"win_rates": "opponents"}),
        ("dno_prct", {"least_rate": 0.0, "margin": 0.01}),
    ],
)
def test_gradients_of_the_others_match_finite_differences(name: str, options: dict[str, Any]) -> None:
    assert_gradient_is_numerical(objective_of(name, options))


def assert_gradient_is_numerical(objective: Objective) -> None:
    policies = policies_of(7)
    pairs, iterate = pairs_of(objective, GAME, policies), torch.tensor(policies["iterate"])
    logits = torch.tensor(START, requires_grad=True)
    (gradient,) = torch.autograd.grad(mean_loss(objective, GAME, pairs, logits, iterate), logits)
    assert gradient.abs().max() > 1e-4
    for direction, slope in zip(1e-5 * np.eye(ACTIONS), gradient, strict=True):
        up, down = (
            mean_loss(objective, GAME, pairs, torch.tensor(START + sign * direction), iterate) for sign in (1, -1)
        )
        assert ((up - down) / 2e-5).item() == pytest.approx(slope.item(), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("name", ["online_ipo", "inpo", "onpo", "dno"])
def test_the_opponent_of_the_two_sample_form_is_whoever_sampled_the_pairs(name: str) -> None:
    """Pairs from nu: the gradient is that of the three-sample form with opponent nu, in which pairs are nu's too."""
    options = {"loss": "regression"} if name == "dno" else {}
    two = objective_of(name, {"win_rates": "labels", **options})
    three = objective_of(name, {"win_rates": "opponents", **options})
    stale = log_normalise(np.random.default_rng(9).normal(size=ACTIONS))
    weights = np.exp(stale)
    labelled = two.pairs(GAME.preference, list(range(ACTIONS)), seed=0)
    against_stale = pairs_of(three, GAME, dict.fromkeys(("current", "half"), stale))
    gradients: list[Tensor] = []
    for objective, pairs in ((two, labelled), (three, against_stale)):
        weighted = pairs.weighted(weights[pairs.first] * weights[pairs.second], 1.0)
        logits = torch.tensor(START, requires_grad=True)
        gradients += torch.autograd.grad(mean_loss(objective, GAME, weighted, logits), logits)
    assert torch.allclose(gradients[0], gradients[1], atol=1e-13)
    fresh = pairs_of(three, GAME, dict.fromkeys(("current", "half"), START))
    weighted = fresh.weighted(weights[fresh.first] * weights[fresh.second], 1.0)
    logits = torch.tensor(START, requires_grad=True)
    (gradient,) = torch.autograd.grad(mean_loss(three, GAME, weighted, logits), logits)
    assert (gradient - gradients[0]).abs().max() > 1e-3


def test_old_pairs_move_the_fixed_point_of_two_samples_and_not_that_of_three() -> None:
    """Pairs of the reference for ever: two samples end at the best response to it, three at the equilibrium."""
    game, n = uniform_game(4, beta=0.3, seed=1), 4
    weights = np.exp(game.reference)
    ends: dict[str, FloatArray] = {}
    for form in ("labels", "opponents"):
        objective = build_objective("online_ipo", {"candidates": n, "beta": 0.3, "win_rates": form})
        policy = game.reference
        step = gradient_step(objective, game, 1.0)
        for _ in range(250):
            pairs = (
                objective.pairs(game.preference, list(range(n)), seed=0)
                if form == "labels"
                else pairs_of(objective, game, {"current": policy})
            )
            policy = step(policy, pairs.weighted(n**2 * weights[pairs.first] * weights[pairs.second], 1.0), None)
        ends[form] = policy
    assert ends["labels"] == pytest.approx(game.best_response(game.reference), abs=1e-9)
    assert game.duality_gap(ends["labels"]) > 1e-3
    assert game.duality_gap(ends["opponents"]) < 1e-12


def test_sppo_pushes_each_response_by_its_win_rate() -> None:
    """At the iterate, uniform responses: d/dlogits of mean_k (lp_k - lp_t,k - eta (w_k - 1/2))^2."""
    sppo = objective_of("sppo", {"win_rates": "opponents", "pair_choice": "all", "step_size": 3.0})
    pairs = pairs_of(sppo, GAME, {"current": START})
    logits = torch.tensor(START, requires_grad=True)
    mean = mean_loss(sppo, GAME, pairs, logits) * ACTIONS / (ACTIONS - 1)
    excess = 3.0 * (GAME.win_rates(START) - 0.5)
    assert mean.item() == pytest.approx(np.mean(excess**2))
    (gradient,) = torch.autograd.grad(mean, logits)
    wanted = -2.0 / ACTIONS * (excess - np.exp(START) * excess.sum())
    assert gradient.numpy() == pytest.approx(wanted, abs=1e-12)


def test_copg_is_online_ipo_in_units_of_reward() -> None:
    pairs = random_pairs()
    for beta in (0.1, 2.0):
        ipo, copg = (build_objective(name, {"beta": beta}) for name in ("online_ipo", "copg"))
        assert torch.allclose(copg.loss(pairs), beta**2 * ipo.loss(pairs))


def test_copg_on_rewards_tilts_the_reference_by_them() -> None:
    """log mu + R / beta for pairs from anywhere, where preferences are those of Bradley and Terry."""
    rewards = np.random.default_rng(3).normal(size=ACTIONS)
    game = Game(preference=expit(rewards[:, None] - rewards[None, :]), reference=GAME.reference, beta=BETA)
    copg = objective_of("copg", {"beta": BETA, "rewards": "log_odds"})
    assert copg.sampling.candidates == ACTIONS, "rewards that stay as they are need no opponents"
    wanted = torch.tensor(log_normalise(GAME.reference + rewards / BETA), requires_grad=True)
    pairs = pairs_of(copg, game, {"current": START})
    uneven = pairs.weighted(np.random.default_rng(1).uniform(0.1, 2.0, len(pairs)), 1.0)
    assert mean_loss(copg, game, uneven, wanted).item() < 1e-20
    on_win_rates = objective_of("copg", {"beta": BETA})
    elsewhere = mean_loss(on_win_rates, game, pairs_of(on_win_rates, game, {"current": START}), wanted)
    assert elsewhere.item() > 1e-3


def test_a_certain_verdict_has_finite_log_odds() -> None:
    copg = build_objective("copg", {"candidates": 2, "rewards": "log_odds"})
    pairs = copg.pairs(np.array([[0.5, 0.0], [1.0, 0.5]]), ["a", "b"], seed=0)
    assert (pairs.first.item(), pairs.second.item()) == (1, 0)
    assert (pairs.first_rate - pairs.second_rate).item() == pytest.approx(np.log(1e6), rel=1e-6)


def test_copg_on_rewards_refuses_what_estimates_win_rates() -> None:
    with pytest.raises(ValueError, match="opponents = 3 is read with rewards 'win_rates'"):
        build_objective("copg", {"rewards": "log_odds", "opponents": 3})


def test_egpo_converges_on_a_cyclic_game_where_online_ipo_diverges() -> None:
    game = cyclic_game(6, beta=0.01, seed=0)
    gaps = {
        name: game.duality_gap(
            train(build_objective(name, {"candidates": 6, "beta": 0.01}), game, game.reference, 150, 1.0)[-1]
        )
        for name in ("egpo", "past_egpo", "optimistic_egpo", "online_ipo")
    }
    assert max(gaps[name] for name in ("egpo", "past_egpo", "optimistic_egpo")) < 0.02
    assert gaps["online_ipo"] > 0.3
