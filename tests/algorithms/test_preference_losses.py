"""Losses of preference models: worked vectors, gradients by finite differences, and a cycle that only one can learn."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from algorithms.preference_losses import (
    bradley_terry,
    general_preference,
    goal_contrast,
    goal_positions,
    masked_squared_error,
    skew_score,
    skew_scores,
    smoothed,
    two_label,
)

PairLoss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
PAIR_LOSSES: dict[str, PairLoss] = {
    "bradley-terry": lambda a, b, target, margin: bradley_terry(a[:, 0] - b[:, 0], target, margin),
    "general preference": lambda a, b, target, margin: general_preference(skew_score(a, b), target, 0.1, margin),
    "two labels": lambda a, b, target, margin: two_label(a[:, 0] - b[:, 0], target, margin),
}


def row(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_bradley_terry_by_hand() -> None:
    one = row(1.0)
    assert bradley_terry(row(1.5), one).item() == pytest.approx(math.log1p(math.exp(-1.5)))
    assert bradley_terry(row(1.5), one, row(1.0)).item() == pytest.approx(math.log1p(math.exp(-0.5)))
    soft = 0.75 * math.log1p(math.exp(-1.5)) + 0.25 * math.log1p(math.exp(1.5))
    assert bradley_terry(row(1.5), row(0.75)).item() == pytest.approx(soft)


def test_smoothing_takes_labels_to_be_reversed_now_and_then() -> None:
    assert smoothed(row(1.0, 0.0, 0.5, 0.75), 0.1).tolist() == pytest.approx([0.9, 0.1, 0.5, 0.7])
    assert smoothed(row(1.0, 0.3), 0.0).tolist() == [1.0, 0.3]
    # The optimum of a smoothed label is finite: r_1 - r_2 = logit(1 - e).
    reward = row(math.log(0.9 / 0.1)).requires_grad_()
    bradley_terry(reward, smoothed(row(1.0), 0.1)).sum().backward()
    assert reward.grad is not None
    assert reward.grad.item() == pytest.approx(0.0, abs=1e-12)


def test_general_preference_by_hand() -> None:
    a, b = torch.tensor([[1.0, 2.0, 0.5, 0.0]]), torch.tensor([[3.0, 1.0, 0.0, 2.0]])
    score = (1.0 * 1.0 - 2.0 * 3.0) + (0.5 * 2.0 - 0.0 * 0.0)
    assert score == -4.0
    assert skew_score(a, b).item() == score
    found = general_preference(skew_score(a, b), torch.tensor([1.0]), 2.0)
    assert found.item() == pytest.approx(math.log1p(math.exp(4.0 / 2.0)))
    assert skew_scores(torch.cat([a, b]))[0, 1].item() == score


@given(st.integers(1, 6), st.integers(1, 3), st.integers(0, 2**31))
def test_skew_scores_are_antisymmetric_bit_for_bit(count: int, blocks: int, seed: int) -> None:
    embeddings = torch.randn(count, 2 * blocks, generator=torch.Generator().manual_seed(seed))
    scores = skew_scores(embeddings)
    assert torch.equal(scores, -scores.T)
    assert torch.equal(scores.diagonal(), torch.zeros(count))
    block = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    rotation = torch.block_diag(*[block] * blocks)
    assert torch.allclose(scores, embeddings @ rotation @ embeddings.T, atol=1e-5)


def test_three_embeddings_at_120_degrees_are_a_cycle() -> None:
    angles = torch.arange(3) * 2.0 * math.pi / 3.0
    scores = skew_scores(torch.stack([angles.cos(), angles.sin()], -1))
    around = torch.stack([scores[0, 1], scores[1, 2], scores[2, 0]])
    assert around.tolist() == pytest.approx([math.sin(2.0 * math.pi / 3.0)] * 3, abs=1e-6)


def test_only_general_preferences_fit_a_cycle() -> None:
    """a > b > c > a with probability 0.9 each: the best rewards are all equal, and say 1/2."""
    first, second = torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0])
    target = torch.full((3,), 0.9, dtype=torch.float64)
    torch.manual_seed(0)
    rewards = torch.randn(3, dtype=torch.float64, requires_grad=True)
    embeddings = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)

    def fitted(parameter: Tensor, loss: Callable[[], Tensor]) -> float:
        optimizer = torch.optim.LBFGS([parameter], max_iter=100, tolerance_change=1e-14, line_search_fn="strong_wolfe")

        def closure() -> float:
            optimizer.zero_grad()
            value = loss().mean()
            value.backward()
            return value.item()

        optimizer.step(closure)
        return closure()

    entropy = -0.9 * math.log(0.9) - 0.1 * math.log(0.1)
    by_rewards = fitted(rewards, lambda: bradley_terry(rewards[first] - rewards[second], target))
    by_embeddings = fitted(
        embeddings, lambda: general_preference(skew_score(embeddings[first], embeddings[second]), target, 0.1)
    )
    assert by_rewards == pytest.approx(math.log(2.0), abs=1e-6)
    assert by_embeddings == pytest.approx(entropy, abs=1e-6)
    assert torch.sigmoid(skew_scores(embeddings) / 0.1)[first, second].tolist() == pytest.approx([0.9] * 3, abs=1e-3)


@pytest.mark.parametrize("loss", PAIR_LOSSES.values(), ids=PAIR_LOSSES)
def test_pair_losses_are_the_same_from_either_side(loss: PairLoss) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 20, 4, dtype=torch.float64)
    target, margin = torch.rand(20, dtype=torch.float64), torch.randn(20, dtype=torch.float64)
    assert torch.allclose(loss(a, b, target, margin), loss(b, a, 1.0 - target, -margin))


@pytest.mark.parametrize("loss", PAIR_LOSSES.values(), ids=PAIR_LOSSES)
def test_gradients_of_pair_losses(loss: PairLoss) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 5, 4, dtype=torch.float64).requires_grad_()
    target, margin = torch.rand(5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x, y: loss(x, y, target, margin), (a, b))


def test_missing_attributes_cost_nothing_and_push_nowhere() -> None:
    predictions = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    loss = masked_squared_error(predictions, torch.tensor([[0.0, np.nan], [np.nan, 6.0]]))
    assert loss.tolist() == [[1.0, 0.0], [0.0, 4.0]]
    loss.sum().backward()
    assert predictions.grad is not None
    assert predictions.grad.tolist() == [[2.0, 0.0], [0.0, -4.0]]


def test_goal_contrast_by_hand() -> None:
    """Cosines 1 and 0 to the goals, -1 and 0 to the others."""
    source = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    goal = torch.tensor([[3.0, 0.0], [1.0, 0.0]])
    other = torch.tensor([[-1.0, 0.0], [5.0, 0.0]])
    sigma = [1.0 / (1.0 + math.exp(-x)) for x in (1.0, 0.0, -1.0)]
    reached, missed = (sigma[0] + sigma[1]) / 2.0, (sigma[2] + sigma[1]) / 2.0
    assert goal_contrast(source, goal, other).item() == pytest.approx(-math.log(reached) - math.log(1.0 - missed))
    best = goal_contrast(source, source, -source).item()
    assert best == pytest.approx(2.0 * math.log1p(math.exp(-1.0)))
    assert goal_contrast(source, -source, source).item() == pytest.approx(2.0 * math.log1p(math.e))


def test_gradient_of_goal_contrast() -> None:
    torch.manual_seed(0)
    states = torch.randn(3, 4, 5, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: goal_contrast(s[0], s[1], s[2]), (states,))


@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 2**31))
def test_goals_come_after_their_sources_and_lie_within_the_answers(chosen: int, rejected: int, seed: int) -> None:
    uniforms = torch.rand(3, 16, generator=torch.Generator().manual_seed(seed))
    source, goal, other = goal_positions(chosen, rejected, uniforms)
    assert (source >= 0).all()
    assert (source <= goal).all()
    assert (goal < chosen).all()
    assert (other >= 0).all()
    assert (other < rejected).all()
