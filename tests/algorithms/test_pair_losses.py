"""Pair losses against hand-computed vectors, finite differences and the optima their papers claim."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from algorithms import pair_losses
from algorithms.objective import PairLogProbs


def pair(first: float = -10.0, second: float = -14.0, target: float = 1.0) -> PairLogProbs:
    """The reference pair: c = 1 and -2, h = 3, 5 and 8 tokens; float64."""

    def one(value: float) -> Tensor:
        return torch.tensor([value], dtype=torch.float64)

    return PairLogProbs(
        first=one(first),
        second=one(second),
        anchor_first=one(-11.0),
        anchor_second=one(-12.0),
        first_length=one(5),
        second_length=one(8),
        target=one(target),
    )


Loss = Callable[[PairLogProbs], Tensor]
LOSSES: dict[str, tuple[Loss, float]] = {
    "dpo": (lambda p: pair_losses.logistic(p.margin, 0.1), 0.5543552445),
    "cdpo": (lambda p: pair_losses.logistic_conservative(p.margin, 0.1, 0.1), 0.5843552445),
    "rdpo": (lambda p: pair_losses.logistic_robust(p.margin, 0.1, 0.1), 0.5168552445),
    "ipo": (lambda p: pair_losses.ipo(p.margin, 0.1), 4.0),
    "ipo soft": (lambda p: pair_losses.ipo_soft(p.margin, 0.1, 0.7), 1.0),
    "ipo length-averaged": (lambda p: pair_losses.ipo_length_averaged(p, 0.1), 20.7025),
    "hinge": (lambda p: pair_losses.hinge(p.margin, 0.1), 0.7),
    "cross-entropy": (
        lambda p: pair_losses.logistic_soft(p.margin, 0.1, 0.7),
        0.7 * math.log1p(math.exp(-0.3)) + 0.3 * math.log1p(math.exp(0.3)),
    ),
}

margins = st.floats(-50.0, 50.0)
betas = st.floats(0.01, 10.0)
flip_rates = st.floats(0.0, 0.49)


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize("name", LOSSES)
def test_reference_vectors(name: str) -> None:
    loss, expected = LOSSES[name]
    assert loss(pair()).item() == pytest.approx(expected, abs=1e-9 if expected > 1 else 1.01e-10)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_match_finite_differences(name: str) -> None:
    loss, _ = LOSSES[name]
    logprobs = pair()
    leaves = (logprobs.first.requires_grad_(), logprobs.second.requires_grad_())
    gradients = torch.autograd.grad(loss(logprobs).sum(), leaves)
    step = 1e-5
    numerical = (
        (loss(pair(first=-10 + step)) - loss(pair(first=-10 - step))) / (2 * step),
        (loss(pair(second=-14 + step)) - loss(pair(second=-14 - step))) / (2 * step),
    )
    for exact, approximate in zip(gradients, numerical, strict=True):
        assert exact.item() == pytest.approx(approximate.item(), rel=1e-7, abs=1e-9)


@given(betas, st.floats(0.01, 0.49))
def test_conservative_optimum_is_the_logit_of_one_minus_the_flip_rate(beta: float, flip_rate: float) -> None:
    optimum = math.log((1 - flip_rate) / flip_rate) / beta
    margins = torch.tensor([optimum - 1 / beta, optimum, optimum + 1 / beta], dtype=torch.float64, requires_grad=True)
    loss = pair_losses.logistic_conservative(margins, beta, flip_rate)
    (slope,) = torch.autograd.grad(loss.sum(), margins)
    assert slope[1].item() == pytest.approx(0.0, abs=1e-14)
    assert slope[0] < -1e-3 * beta
    assert slope[2] > 1e-3 * beta


@given(margins, betas, flip_rates)
def test_robust_is_unbiased_under_label_flips(margin: float, beta: float, flip_rate: float) -> None:
    h = scalar(margin)
    kept = pair_losses.logistic_robust(h, beta, flip_rate)
    flipped = pair_losses.logistic_robust(-h, beta, flip_rate)
    mean = (1 - flip_rate) * kept + flip_rate * flipped
    assert mean.item() == pytest.approx(pair_losses.logistic(h, beta).item(), rel=1e-9, abs=1e-9)


@given(margins, betas, st.floats(0.0, 1.0))
def test_soft_targets_are_the_mean_of_hard_ones(margin: float, beta: float, target: float) -> None:
    """Exact for the cross-entropy; for IPO up to the label's variance, which has no gradient."""
    h = scalar(margin)
    mean = target * pair_losses.logistic(h, beta) + (1 - target) * pair_losses.logistic(-h, beta)
    assert pair_losses.logistic_soft(h, beta, target).item() == pytest.approx(mean.item(), rel=1e-9, abs=1e-12)
    hard = target * pair_losses.ipo(h, beta) + (1 - target) * pair_losses.ipo(-h, beta)
    variance = target * (1 - target) / beta**2
    soft = pair_losses.ipo_soft(h, beta, target).item()
    assert hard.item() - variance == pytest.approx(soft, rel=1e-7, abs=1e-6)


@given(margins, betas)
def test_limits_that_join_the_family(margin: float, beta: float) -> None:
    h = scalar(margin)
    dpo = pair_losses.logistic(h, beta)
    assert torch.equal(pair_losses.logistic_conservative(h, beta, 0.0), dpo)
    assert torch.equal(pair_losses.logistic_robust(h, beta, 0.0), dpo)
    assert torch.equal(pair_losses.ipo_soft(h, beta, 1.0), pair_losses.ipo(h, beta))
    swapped = pair_losses.ipo_soft(-h, beta, 0.25)
    assert swapped.item() == pytest.approx(pair_losses.ipo_soft(h, beta, 0.75).item(), rel=1e-12)


def test_regression_on_win_probabilities_recovers_the_win_rates() -> None:
    """Minimising IPO over all pairs gives log pi/mu = P(y > nu) / tau + const, also in a cyclic game."""
    game = torch.tensor([[0.5, 0.9, 0.2], [0.1, 0.5, 0.7], [0.8, 0.3, 0.5]], dtype=torch.float64)
    tau = 0.5
    ratios = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.SGD([ratios], lr=0.3)
    for _ in range(200):
        optimiser.zero_grad()
        pair_losses.ipo_soft(ratios[:, None] - ratios[None, :], tau, game).mean().backward()
        optimiser.step()
    expected = game.mean(dim=1) / tau
    found = ratios.detach()
    assert torch.allclose(found - found.mean(), expected - expected.mean(), atol=1e-12)


def test_length_averaging_survives_an_empty_completion() -> None:
    logprobs = PairLogProbs(
        **dict.fromkeys(("first", "second", "anchor_first", "anchor_second"), torch.zeros(1)),
        first_length=torch.zeros(1),
        second_length=torch.ones(1),
        target=torch.ones(1),
    )
    assert pair_losses.ipo_length_averaged(logprobs, 0.5).item() == 1.0


def test_extreme_margins_stay_finite_in_float32() -> None:
    h = torch.tensor([-1e4, 1e4])
    for loss in (
        pair_losses.logistic(h, 1.0),
        pair_losses.logistic_robust(h, 1.0, 0.3),
        pair_losses.ipo(h, 1e-3),
    ):
        assert loss.dtype == torch.float32
        assert loss.isfinite().all()
