"""SPO and Nash-MD: their losses of pairs have the gradient of the policy gradient, on and off policy."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch

from algorithms.games import FloatArray, Game, create, log_normalise, uniform_game
from algorithms.objective import Objective, build_objective
from tests.algorithms.objectives.tabular import logprobs_of, pairs_of
from tests.algorithms.pair_examples import worked_pair

ACTIONS, BETA = 5, 0.3
GAME = uniform_game(ACTIONS, beta=BETA, seed=4)
POLICY, OLD, MIXTURE = (log_normalise(np.random.default_rng(seed).normal(size=ACTIONS)) for seed in range(3))


def nash_md(**options: Any) -> Objective:
    return build_objective("nash_md", {"candidates": ACTIONS, "beta": BETA, **options})


def expected_gradient(objective: Objective, game: Game, behaviour: FloatArray) -> FloatArray:
    """d/dlogits at POLICY of the loss of two independent draws from `behaviour`, opponents from MIXTURE."""
    pairs = pairs_of(objective, game, {"current": behaviour, "mixture": MIXTURE})
    logits = torch.tensor(POLICY, requires_grad=True)
    log_policy, sampled = logits.log_softmax(0), torch.tensor(behaviour)
    logprobs = replace(
        logprobs_of(pairs, objective, game, log_policy, log_policy.detach()),
        behaviour_first=sampled[torch.tensor(pairs.first)],
        behaviour_second=sampled[torch.tensor(pairs.second)],
    )
    drawn = 2.0 * torch.tensor(np.exp(behaviour)[pairs.first] * np.exp(behaviour)[pairs.second])
    (gradient,) = torch.autograd.grad((drawn * objective.loss(logprobs)).sum(), logits)
    return np.asarray(gradient.numpy())


def regularised_gradient() -> FloatArray:
    """Of E_{y ~ pi, y' ~ m} P(y > y') - beta KL(pi || mu), with respect to the logits of pi."""
    advantage = GAME.win_rates(MIXTURE) - BETA * (POLICY - GAME.reference)
    probabilities = np.exp(POLICY)
    return np.asarray(probabilities * (advantage - probabilities @ advantage))


def test_nash_md_ascends_the_regularised_win_rate_against_the_mixture() -> None:
    assert expected_gradient(nash_md(), GAME, POLICY) == pytest.approx(-regularised_gradient(), abs=1e-14)


def test_importance_weights_make_the_gradient_independent_of_who_sampled() -> None:
    wanted = -regularised_gradient()
    assert expected_gradient(nash_md(weight_cap=1e6), GAME, OLD) == pytest.approx(wanted, abs=1e-14)
    for biased in ({"importance_weights": "none"}, {"weight_cap": 1.0}):
        assert np.abs(expected_gradient(nash_md(**biased), GAME, OLD) - wanted).max() > 1e-3


def test_interpolated_parameters_are_the_normalised_geometric_mixture_of_a_table() -> None:
    """So that in a game of one token Nash-MD's opponents are the paper's, and its step is the exact one."""
    share = 0.25
    logits = (1.0 - share) * POLICY + share * GAME.reference
    geometric = np.exp(POLICY) ** (1.0 - share) * np.exp(GAME.reference) ** share
    assert np.exp(log_normalise(logits)) == pytest.approx(geometric / geometric.sum())
    eta = share / BETA
    start = replace(create("omd", step_size=eta).start(GAME), log_policy=POLICY)
    stepped = create("nash_md", step_size=eta).step(GAME, start).log_policy
    mixture = log_normalise(logits)
    assert stepped == pytest.approx(log_normalise(mixture + eta * GAME.win_rates(mixture)))


def test_spo_is_the_policy_gradient_of_a_group_with_a_leave_one_out_baseline() -> None:
    """A group of six with duplicates: sum over i < j is K times the gradient around the mean."""
    group = np.array([0, 3, 1, 3, 4, 0])
    count = len(group)
    spo = build_objective("spo", {"candidates": count, "importance_weights": "none"})
    matrix = GAME.preference[np.ix_(group, group)]
    pairs = spo.pairs(matrix, group.tolist(), seed=0)
    assert len(pairs) == count * (count - 1) // 2
    logits = torch.tensor(POLICY, requires_grad=True)
    log_policy = logits.log_softmax(0)[torch.tensor(group)]
    reference = replace_reference(GAME, group)
    losses = spo.loss(logprobs_of(pairs, spo, reference, log_policy, log_policy.detach()))
    (gradient,) = torch.autograd.grad(losses.mean(), logits, retain_graph=True)

    advantage = np.array([np.delete(matrix[i], i).mean() for i in range(count)])
    baseline = np.array([np.delete(advantage, i).mean() for i in range(count)])
    weight = torch.tensor((advantage - baseline) / count)
    (wanted,) = torch.autograd.grad(-(weight * log_policy).sum(), logits, retain_graph=True)
    assert torch.allclose(gradient, wanted, atol=1e-14)

    centred = torch.tensor(advantage - advantage.mean())
    together = sum(
        (centred[i] - centred[j]) * (log_policy[i] - log_policy[j]) for i, j in combinations(range(count), 2)
    )
    assert torch.allclose(torch.as_tensor(together), count * (centred * log_policy).sum())


def replace_reference(game: Game, group: FloatArray) -> Game:
    """A game whose actions are the group's members, for a loss that does not look at the reference."""
    uniform = np.full(len(group), -np.log(len(group)))
    return Game(preference=game.preference[np.ix_(group, group)], reference=uniform, beta=game.beta)


def test_spo_does_not_look_at_the_reference() -> None:
    spo = build_objective("spo", {})
    assert spo.loss(worked_pair(first_rate=0.7)).equal(spo.loss(worked_pair(first_rate=0.7, anchor_first=-3.0)))


def test_weights_are_capped_and_carry_no_gradient() -> None:
    """Behaviour one nat below: w = e, or the cap; the rates' difference is 0.4."""
    for cap, weight in ((10.0, np.e), (2.0, 2.0)):
        spo = build_objective("spo", {"weight_cap": cap})
        pair = worked_pair(first_rate=0.7, second_rate=0.3, behaviour_first=-11.0)
        first, second = pair.first.requires_grad_(), pair.second.requires_grad_()
        slopes = torch.autograd.grad(spo.loss(pair).sum(), (first, second))
        assert [slope.item() for slope in slopes] == pytest.approx([-0.2 * weight, 0.2])


def test_gradients_match_finite_differences_of_the_surrogate() -> None:
    """The advantage and the weights stand still, as they do for the gradient."""
    frozen = nash_md().loss(worked_pair(first_rate=0.8, second_rate=0.4))
    assert frozen.item() == pytest.approx(-0.5 * (0.4 - BETA * 3.0) * 4.0)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("spo", {"candidates": 1}, "candidates"),
        ("nash_md", {"mixture": 0.0}, "mixture"),
        ("nash_md", {"mixture": 1.5}, "mixture"),
        ("nash_md", {"beta": 0.0}, "beta"),
        ("spo", {"weight_cap": 3.0, "importance_weights": "none"}, "needs importance_weights 'truncated'"),
        ("spo", {"weight_cap": 0.5}, "weight_cap"),
        ("spo", {"beta": 0.1}, "unknown option 'beta'"),
    ],
)
def test_impossible_options_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_objective(name, options)


def test_sampling_and_update() -> None:
    objective = nash_md(candidates=3, opponents=2, mixture=0.2, opponent_staleness=1)
    assert [(r.name, r.count, r.policies, r.staleness) for r in objective.sampling.roles] == [
        ("pair", 3, ("current",), 1),
        ("opponent", 2, ("mixture",), 1),
    ]
    assert objective.update.mixture == 0.2
    assert "mixture" in objective.update.published(0)
    assert build_objective("spo", {"candidates": 6}).sampling.indices("pair") == tuple(range(6))
