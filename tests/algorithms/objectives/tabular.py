"""A policy that is a table of logits, trained by an objective on exact win rates: what the learner does, in small.

Every answer is a candidate once, so pairs are uniform over the support; each opponent is one column of the
preference matrix that holds the exact win rates against a whole policy. The update rules are written out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from algorithms.games import FloatArray, Game, log_normalise
from algorithms.objective import Objective, PairLogProbs
from algorithms.pairs import Pairs

Policies = Mapping[str, FloatArray]
"""Log-probabilities [n] of the named policies."""


def preference_with(game: Game, opponents: list[FloatArray]) -> FloatArray:
    """[n + M, n + M]: the game, and a candidate for each opponent that wins as often as its policy does."""
    rates = np.array([game.win_rates(opponent) for opponent in opponents]).reshape(-1, game.actions).T
    among = np.full((len(opponents),) * 2, 0.5)
    return np.block([[game.preference, rates], [1.0 - rates.T, among]])


def pairs_of(objective: Objective, game: Game, policies: Policies, version: int = 0) -> Pairs:
    """The objective's pairs of a group in which every answer stands once, before its opponents."""
    opponents = [policies[role.policy_at(version)] for role in objective.sampling.roles if role.name == "opponent"]
    matrix = preference_with(game, opponents)
    assert objective.sampling.candidates == len(matrix)
    return objective.pairs(matrix, list(range(len(matrix))), seed=0)


def logprobs_of(pairs: Pairs, objective: Objective, game: Game, log_policy: Tensor, iterate: Tensor) -> PairLogProbs:
    """What the learner hands to the loss, float64; behaviour is the policy without its gradient."""
    reference = torch.tensor(game.reference)
    anchor = objective.anchor.combine(reference, iterate)
    first, second = torch.tensor(pairs.first), torch.tensor(pairs.second)
    one = torch.ones(len(pairs), dtype=torch.float64)
    return PairLogProbs(
        first=log_policy[first],
        second=log_policy[second],
        anchor_first=anchor[first],
        anchor_second=anchor[second],
        behaviour_first=log_policy[first].detach(),
        behaviour_second=log_policy[second].detach(),
        first_length=one,
        second_length=one,
        first_index=first,
        second_index=second,
        target=torch.tensor(pairs.target),
        first_rate=torch.tensor(pairs.first_rate),
        second_rate=torch.tensor(pairs.second_rate),
    )


def mean_loss(objective: Objective, game: Game, pairs: Pairs, logits: Tensor, iterate: Tensor | None = None) -> Tensor:
    """Mean over the n^2 ordered pairs, those of an answer with itself included: they add nothing."""
    log_policy = logits.log_softmax(0)
    anchor = log_policy.detach() if iterate is None else iterate
    losses = objective.loss(logprobs_of(pairs, objective, game, log_policy, anchor))
    return 2.0 * (torch.tensor(pairs.weight) * losses).sum() / game.actions**2


Step = Callable[[FloatArray, Pairs, FloatArray | None], FloatArray]


def gradient_step(objective: Objective, game: Game, step_size: float) -> Step:
    """Gradient descent on the logits with the rate eta n / (4 scale), `reward_scale` being 1 / scale."""
    rate = step_size * game.actions * objective.reward_scale / 4.0

    def step(log_policy: FloatArray, pairs: Pairs, iterate: FloatArray | None) -> FloatArray:
        logits = torch.tensor(log_policy, requires_grad=True)
        anchor = None if iterate is None else torch.tensor(iterate)
        (gradient,) = torch.autograd.grad(mean_loss(objective, game, pairs, logits, anchor), logits)
        return log_normalise(log_policy - rate * gradient.numpy())

    return step


def train(objective: Objective, game: Game, start: FloatArray, updates: int, step_size: float) -> list[FloatArray]:
    """The evaluated policy after 0, 1, ..., `updates` updates, under the objective's own update rule."""
    step, rule = gradient_step(objective, game, step_size), objective.update
    theta = half = previous = before = log_normalise(start)
    visited = [theta]
    for update in range(updates):
        policies = {
            "current": theta, "iterate": theta, "half": half, "latest": theta, "previous(1)": previous,
            "reference": game.reference,
        }  # fmt: skip
        previous = theta
        if rule.rule == "extragradient":
            half = step(theta, pairs_of(objective, game, policies, 2 * update), None)
            theta = step(
                theta, pairs_of(objective, game, {**policies, "half": half, "latest": half}, 2 * update + 1), None
            )
        elif rule.rule == "past_extragradient":
            pairs = pairs_of(objective, game, policies)
            theta = step(theta, pairs, None)
            half = step(theta, pairs, None)
        else:
            hat = step(theta, pairs_of(objective, game, policies), None)
            theta, before = log_normalise(hat + rule.momentum * (hat - before)), hat
        visited.append(half if rule.evaluated == "half" else theta)
    return visited
