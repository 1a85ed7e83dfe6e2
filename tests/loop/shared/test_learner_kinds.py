"""The loop with two data-parallel learner workers, and with adapters instead of full weights."""

from pathlib import Path

import pytest
import torch

from tests.loop.support import Outcome, load_weights, same_weights

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_two_workers_do_what_one_does(two_workers: Outcome, synchronous: Outcome) -> None:
    """Only the order in which gradients are added differs, so what is left is float32 rounding."""
    alone, both = synchronous.succeeded(), two_workers.succeeded()
    for name in ("loss", "gradient_norm", "kl", "margin", "pairs", "groups", "batch_trained_tokens"):
        there = [line[name] for line in alone.metrics("step")]
        assert [line[name] for line in both.metrics("step")] == pytest.approx(there, rel=1e-3, abs=1e-5), name
    start, weights = load_weights(Path(alone.config.model.name)), both.weights()
    for name, expected in alone.weights().items():
        moved = (expected - start[name]).norm()
        assert (weights[name] - expected).norm() < 1e-3 * moved, name


def test_adapters_reach_the_engine(extragradient: Outcome) -> None:
    summary, loop = extragradient.succeeded().summary, extragradient.config.loop
    assert summary["ledger"]["trained"] == loop.steps * loop.batch
    assert extragradient.events("published")[-1]["version"] == loop.steps
    assert summary["mismatch"]["max_abs_logprob"] < 1e-3
    # The adapter moved far enough for a stale or missing one to be seen.
    assert abs(summary["kl"]) > 0.1


def test_adapters_are_merged_into_the_policy(extragradient: Outcome, tiny_model: Path) -> None:
    folder = extragradient.succeeded().path / "policy"
    assert not (folder / "adapter_config.json").exists()
    start, final = load_weights(tiny_model), load_weights(folder)
    assert start.keys() == final.keys()
    assert not same_weights(start, final)
    embedding = "model.embed_tokens.weight"
    assert torch.equal(start[embedding], final[embedding]), "only linear layers carry adapters"
