"""Pair losses against hand-computed vectors, finite differences and the optima their papers claim."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from algorithms import pair_losses
from algorithms.objective import PairLogProbs
from tests.algorithms.pair_examples import worked_pair

Loss = Callable[[PairLogProbs], Tensor]
LOSSES: dict[str, tuple[Loss, float]] = {
    "dpo": (lambda p: pair_losses.logistic(p.margin, 0.1), 0.5543552445),
    "cdpo": (lambda p: pair_losses.logistic_conservative(p.margin, 0.1, 0.1), 0.5843552445),
    "rdpo": (lambda p: pair_losses.logistic_robust(p.margin, 0.1, 0.1), 0.5168552445),
    "cross-entropy": (
        lambda p: pair_losses.logistic_soft(p.margin, 0.1, 0.7),
        0.7 * math.log1p(math.exp(-0.3)) + 0.3 * math.log1p(math.exp(0.3)),
    ),
    "reverse kl": (lambda p: divergence(p, "reverse_kl"), 0.5543552445),
    "forward kl": (lambda p: divergence(p, "forward_kl"), 0.4024838785),
    "jensen-shannon": (lambda p: divergence(p, "jensen_shannon"), 0.6065699732),
    "alpha": (lambda p: divergence(p, "alpha"), 0.5290823099),
    "dpo length-averaged": (lambda p: pair_losses.logistic_length_averaged(p, 0.1), 0.6709002842),
    "ipo": (lambda p: pair_losses.ipo(p.margin, 0.1), 4.0),
    "ipo soft": (lambda p: pair_losses.ipo_soft(p.margin, 0.1, 0.7), 1.0),
    "ipo length-averaged": (lambda p: pair_losses.ipo_length_averaged(p, 0.1), 20.7025),
    "hinge": (lambda p: pair_losses.hinge(p.margin, 0.1), 0.7),
    "slic-hf": (lambda p: pair_losses.slic(p, 1.0) + 0.1 * pair_losses.likelihood(p), 1.0),
    "slic at the hinge": (lambda p: pair_losses.slic(p, 5.0), 1.0),
    "simpo": (lambda p: pair_losses.simpo(p, 2.0, 1.0), 1.7014132780),
    "rpo pang": (
        lambda p: pair_losses.logistic(p.margin, 0.1) + pair_losses.likelihood_length_averaged(p),
        2.5543552445,
    ),
    "asft": (pair_losses.asft, 2.1908868667),
    "orpo": (pair_losses.orpo, 0.8517574831),
    "sppo hard": (lambda p: pair_losses.sppo_hard(p, 0.1), 25.0),
}


def divergence(logprobs: PairLogProbs, name: pair_losses.Divergence) -> Tensor:
    return pair_losses.logistic(pair_losses.divergence_margin(logprobs, name, 0.3), 0.1)


margins = st.floats(-50.0, 50.0)
betas = st.floats(0.01, 10.0)
flip_rates = st.floats(0.0, 0.49)


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize("name", LOSSES)
def test_reference_vectors(name: str) -> None:
    loss, expected = LOSSES[name]
    assert loss(worked_pair()).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_match_finite_differences(name: str) -> None:
    loss, _ = LOSSES[name]
    logprobs = worked_pair()
    leaves = (logprobs.first.requires_grad_(), logprobs.second.requires_grad_())
    gradients = torch.autograd.grad(loss(logprobs).sum(), leaves)
    step = 1e-5
    numerical = (
        (loss(worked_pair(first=-10 + step)) - loss(worked_pair(first=-10 - step))) / (2 * step),
        (loss(worked_pair(second=-14 + step)) - loss(worked_pair(second=-14 - step))) / (2 * step),
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
    empty = worked_pair(first=0.0, anchor_first=0.0, first_length=0.0, second=0.0, anchor_second=0.0)
    assert pair_losses.ipo_length_averaged(empty, 0.5).item() == 1.0
    assert pair_losses.orpo(empty).isfinite().all()


@given(st.floats(-5.0, 5.0), st.floats(-5.0, 5.0))
def test_divergences_join_each_other(first: float, second: float) -> None:
    """alpha lies between reverse KL at 0 and forward KL at 1, and every one keeps the order of the log-ratios."""
    logprobs = worked_pair(first=first - 11, second=second - 12)

    def margin(name: pair_losses.Divergence, alpha: float = 0.5) -> float:
        return pair_losses.divergence_margin(logprobs, name, alpha).item()

    assert margin("alpha", 1e-7) == pytest.approx(margin("reverse_kl"), abs=1e-5)
    assert margin("alpha", 1.0 - 1e-9) == pytest.approx(margin("forward_kl"), rel=1e-6, abs=1e-6)
    assert all(margin(name) * (first - second) >= 0 for name in ("forward_kl", "jensen_shannon", "alpha"))


def test_exponentials_of_log_ratios_stay_finite_and_keep_their_gradient_in_float32() -> None:
    far = torch.tensor([-500.0], requires_grad=True)
    logprobs = replace(worked_pair(), first=far, anchor_first=torch.zeros(1), second=far.detach(), target=far.detach())
    for name in ("forward_kl", "alpha"):
        (slope,) = torch.autograd.grad(pair_losses.divergence_margin(logprobs, name, 0.5).sum(), far)
        assert slope.dtype == torch.float32
        assert slope.square().isfinite().all()
        assert slope > 0


def test_extreme_margins_stay_finite_in_float32() -> None:
    h = torch.tensor([-1e4, 1e4])
    for loss in (
        pair_losses.logistic(h, 1.0),
        pair_losses.logistic_robust(h, 1.0, 0.3),
        pair_losses.ipo(h, 1e-3),
    ):
        assert loss.dtype == torch.float32
        assert loss.isfinite().all()
