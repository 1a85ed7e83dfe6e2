"""Tokens come from the distribution that is reported, and a request's own seed alone decides about them."""

import importlib
import math

import pytest
import torch
from scipy.stats import chisquare

from actors.sampling_cpu import CumulativeSampler, draw, token_ranks, uniforms

VOCABULARY = 300


@pytest.fixture(scope="module")
def logits() -> torch.Tensor:
    return torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(0)) * 2


def seeded(rows: int) -> dict[int, torch.Generator]:
    return {row: torch.Generator().manual_seed(row) for row in range(rows)}


def sample(
    logits: torch.Tensor, generators: dict[int, torch.Generator], k: int | None = None, p: float | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    sampler, rows = CumulativeSampler("processed_logprobs"), len(logits)
    tokens, logprobs = sampler.forward_cpu(
        logits.clone(),
        generators,
        None if k is None else torch.full((rows,), k),
        None if p is None else torch.full((rows,), p),
    )
    assert logprobs is not None
    return tokens, logprobs


def test_frequencies_are_the_reported_probabilities(logits: torch.Tensor) -> None:
    rows = 20_000
    tokens, logprobs = sample(logits.expand(rows, -1), seeded(rows))
    assert torch.equal(logprobs[0], logits.log_softmax(-1))
    expected = logprobs[0].double().softmax(-1) * rows
    often = expected >= 5
    counts = torch.bincount(tokens, minlength=VOCABULARY)
    observed = torch.cat([counts[often], counts[~often].sum()[None]])
    wanted = torch.cat([expected[often], expected[~often].sum()[None]])
    assert chisquare(observed, wanted).pvalue > 1e-3


def test_every_token_has_its_share_of_the_uniform_numbers() -> None:
    logprobs = torch.tensor([0.25, 0.0, 0.5, 0.25, 0.0]).log()
    numbers = torch.tensor([0.0, 0.2499, 0.25, 0.7499, 0.75, 1 - 2**-24])
    assert draw(logprobs.expand(len(numbers), -1), numbers).tolist() == [0, 0, 2, 2, 3, 3]


def test_a_large_vocabulary_is_summed_exactly_enough() -> None:
    vocabulary, share = 150_000, 0.9
    logprobs = torch.full((1, vocabulary), math.log((1 - share) / (vocabulary - 1)))
    logprobs[0, -1] = math.log(share)
    below, above = (draw(logprobs, torch.tensor([1 - share + change])).item() for change in (-1e-6, 1e-6))
    assert vocabulary - 10 < below < vocabulary - 1
    assert above == vocabulary - 1


def test_weights_that_are_no_numbers_draw_a_token_and_harm_no_other_row(logits: torch.Tensor) -> None:
    rows = torch.stack([logits, torch.full_like(logits, math.nan), logits])
    tokens, _ = sample(rows, seeded(3))
    assert tokens[1] == VOCABULARY - 1
    assert tokens[[0, 2]].tolist() == sample(rows[[0, 2]], {0: seeded(1)[0], 1: seeded(3)[2]})[0].tolist()


@pytest.mark.parametrize("options", [{"k": 3}, {"p": 0.5}])
def test_what_is_cut_off_is_never_drawn(logits: torch.Tensor, options: dict[str, float]) -> None:
    tokens, logprobs = sample(logits.expand(2000, -1), seeded(2000), **options)  # type: ignore[arg-type]
    kept = logprobs[0].isfinite()
    assert 1 < kept.sum() < VOCABULARY
    assert kept[tokens].all()
    assert set(tokens.tolist()) == set(kept.nonzero().flatten().tolist())


def test_a_seed_decides_alone_whatever_else_is_in_the_batch(logits: torch.Tensor) -> None:
    alone = [sample(logits[None], {0: torch.Generator().manual_seed(7)})[0].item()]
    torch.manual_seed(0)
    crowd = torch.cat([torch.randn(30, VOCABULARY), logits[None]])
    assert [sample(crowd, {30: torch.Generator().manual_seed(7)})[0][30].item()] == alone
    assert (
        uniforms(2, {1: torch.Generator().manual_seed(1)})[1] != uniforms(2, {1: torch.Generator().manual_seed(2)})[1]
    )


def test_without_seeds_draws_differ(logits: torch.Tensor) -> None:
    tokens, _ = sample(logits.expand(50, -1), {})
    assert len(set(tokens.tolist())) > 5


def test_ranks_count_from_one() -> None:
    logprobs = torch.tensor([[-1.0, -3.0, -2.0, -math.inf], [-1.0, -1.0, -5.0, -6.0]])
    assert token_ranks(logprobs, torch.tensor([[-2.0], [-1.0]])).tolist() == [2, 2]
    assert token_ranks(torch.zeros(1, 300_000), torch.zeros(1, 1)).tolist() == [300_000]


def test_engines_of_the_rollout_plane_use_both(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.v1.sample import sampler

    for name in ("TopKTopPSampler", "batched_count_greater_than"):
        monkeypatch.setattr(sampler, name, getattr(sampler, name))
    importlib.reload(importlib.import_module("actors.engine_worker"))
    assert sampler.batched_count_greater_than is token_ranks
    assert isinstance(sampler.Sampler("processed_logprobs").topk_topp_sampler, CumulativeSampler)
