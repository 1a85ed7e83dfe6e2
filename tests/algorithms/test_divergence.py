"""Divergences of next-token distributions: closed forms, and what the sampled estimators converge to."""

import math

import pytest
import torch
from torch import Tensor

from algorithms.diagnostics import k1, k2, k3
from algorithms.divergence import entropy, kl_divergence, top_tokens


def logits(*shape: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def test_kl_of_two_coins() -> None:
    p, q = torch.tensor([0.9, 0.1]).log(), torch.tensor([0.5, 0.5]).log()
    expected = 0.9 * math.log(1.8) + 0.1 * math.log(0.2)
    assert kl_divergence(p, q).item() == pytest.approx(expected, rel=1e-6)
    # Logits are probabilities up to a constant.
    assert kl_divergence(p + 7.0, q - 3.0).item() == pytest.approx(expected, rel=1e-5)


def test_is_what_torch_says_and_zero_only_between_equals() -> None:
    p, q = logits(5, 7, 30), logits(5, 7, 30, seed=1)
    found = kl_divergence(p, q)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=p), torch.distributions.Categorical(logits=q)
    )
    torch.testing.assert_close(found, expected)
    assert (found > 0).all()
    assert not kl_divergence(p, p).any()
    torch.testing.assert_close(entropy(p), torch.distributions.Categorical(logits=p).entropy())


def test_the_estimators_from_samples_converge_to_it_but_for_the_biased_one() -> None:
    """k1 and k3 are unbiased, k3 with less spread; k2 is biased, and little where the policies are near."""
    p = logits(50, scale=1.0)
    q = p + logits(50, seed=1, scale=0.3)
    exact = kl_divergence(p, q).item()
    drawn = torch.multinomial(p.softmax(-1), 400_000, replacement=True, generator=torch.Generator().manual_seed(2))
    log_ratio = (q.log_softmax(-1) - p.log_softmax(-1))[drawn]
    for estimator, tolerance in ((k1, 2e-3), (k3, 1e-3)):
        assert estimator(log_ratio).mean().item() == pytest.approx(exact, abs=tolerance)
    assert k3(log_ratio).std() < k1(log_ratio).std()
    bias = (p.softmax(-1) * k2(q.log_softmax(-1) - p.log_softmax(-1))).sum().item() - exact
    assert 1e-5 < abs(bias) < 0.2 * exact


def test_tokens_that_cannot_be_sampled_add_nothing() -> None:
    p, q = logits(6), logits(6, seed=1)
    forbidden = torch.full((2,), -torch.inf, dtype=torch.float64)
    wide_p, wide_q = torch.cat([p, forbidden]), torch.cat([q, forbidden])
    torch.testing.assert_close(kl_divergence(wide_p, wide_q), kl_divergence(p, q))
    torch.testing.assert_close(entropy(wide_p), entropy(p))
    assert kl_divergence(q, torch.cat([p[:5], forbidden[:1]])).item() == math.inf


def test_top_tokens_of_a_uniform_distribution_and_of_a_certain_one() -> None:
    uniform = top_tokens(torch.zeros(100), k=10)
    assert uniform.mass.item() == pytest.approx(0.1)
    assert uniform.entropy.item() == pytest.approx(0.1 * math.log(100), rel=1e-5)
    assert uniform.renormalised_entropy.item() == pytest.approx(math.log(10), rel=1e-5)
    certain = top_tokens(torch.tensor([100.0, 0.0, 0.0]), k=2)
    assert certain.mass.item() == pytest.approx(1.0)
    assert certain.entropy.item() == pytest.approx(0.0, abs=1e-6)


def test_the_two_entropies_of_the_top_are_related_and_k_matters() -> None:
    values = logits(4, 40)
    found = top_tokens(values, k=5)
    torch.testing.assert_close(found.renormalised_entropy, found.entropy / found.mass + found.mass.log())
    whole = top_tokens(values, k=40)
    torch.testing.assert_close(whole.mass, torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(whole.entropy, entropy(values))
    assert (found.mass < whole.mass).all()


def test_half_precision_is_reduced_in_single() -> None:
    p, q = logits(1000, scale=0.5).bfloat16(), logits(1000, seed=1, scale=0.5).bfloat16()
    torch.testing.assert_close(kl_divergence(p, q), kl_divergence(p.double(), q.double()).float())


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="one vocabulary"):
        kl_divergence(torch.zeros(3), torch.zeros(4))
    with pytest.raises(ValueError, match="3 tokens, got 10"):
        top_tokens(torch.zeros(3))
