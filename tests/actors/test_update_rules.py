"""The rules by which gradients move the policy: each is written out step by step, and equal to it bit for bit."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actors.learner import Learner
from actors.policy import Policy
from actors.records import Group
from actors.work import alone, layout_of, pair_inputs, work_of
from algorithms.layout import pack_groups
from algorithms.objective import Objective, build_objective
from algorithms.preference import antisymmetric
from tests.actors.test_learner import STABLE, distance, weights
from tests.examples import config, random_groups
from tests.tiny import make_model


def batches(count: int, candidates: int = 4) -> list[list[Group]]:
    """Batches of groups with random preferences: in a ranking all would beat the opponents alike."""
    generator, found = np.random.default_rng(0), []
    for version in range(count):
        groups = random_groups(3, seed=version, candidates=candidates)
        raw = [generator.uniform(size=(candidates, candidates)) for _ in groups]
        found.append(
            [replace(g, preference=antisymmetric((r + 1 - r.T) / 2)) for g, r in zip(groups, raw, strict=True)]
        )
    return found


BATCHES = batches(6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("tiny"), hidden=32)


def learner(folder: Path, objective: str, method: str = "full", **options: Any) -> Learner:
    wanted = {"learner__method": method, "objective": {"name": objective, "options": options}, "loop__steps": 6}
    settings = config(**STABLE | wanted)
    return Learner(settings, Policy(settings, str(folder), torch.device("cpu")), build_objective(objective, options))


def plain_step(found: Learner, batch: Sequence[Group]) -> None:
    """One step of the optimizer on the mean loss, each group by itself in a row of its own."""
    objective: Objective = found._objective
    policy, losses = found.policy, []
    work = [work_of(objective, group, 0) for group in batch]
    for item in work:
        layout = layout_of([item], True)
        logprobs = policy.sequence_logprobs(layout)
        anchor = objective.anchor.combine(policy.sequence_logprobs(layout, reference=True), logprobs.detach())
        losses.append(objective.loss(pair_inputs([item], logprobs, anchor)))
    torch.cat(losses).mean().backward()
    found._optimizer.step()
    found._optimizer.zero_grad(set_to_none=True)


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


OPTIONS: dict[str, Any] = {"candidates": 2, "opponents": 2}


@pytest.mark.parametrize("method", ["full", "lora"])
def test_extragradient_steps_twice_from_the_same_point_and_moments(folder: Path, method: str) -> None:
    found, plain = learner(folder, "egpo", method, **OPTIONS), learner(folder, "egpo", method, **OPTIONS)
    for update in range(2):
        before = weights(plain), copy.deepcopy(plain._optimizer.state_dict())
        plain_step(plain, BATCHES[2 * update])
        found.update(BATCHES[2 * update], alone)
        half = weights(plain)
        assert distance(weights(found), half) < 1e-6
        assert set(found.published()) >= {"half"}
        plain._load({"parameters": before[0], "optimizer": before[1]})
        plain_step(plain, BATCHES[2 * update + 1])
        found.update(BATCHES[2 * update + 1], alone)
        assert distance(weights(found), weights(plain)) < 1e-6
        assert distance(half, weights(plain)) > 1e-4, "the look-ahead is another policy"
        assert "current" in found.published()


def test_past_extragradient_publishes_a_look_ahead_and_goes_on_from_the_policy(folder: Path) -> None:
    found, plain = learner(folder, "past_egpo", **OPTIONS), learner(folder, "past_egpo", **OPTIONS)
    for batch in BATCHES[:3]:
        found.update(batch, alone)
        plain_step(plain, batch)
        settled = weights(plain), copy.deepcopy(plain._optimizer.state_dict())
        plain_step(plain, batch)
        assert distance(found.published()["half"], weights(plain)) < 1e-6
        plain._load({"parameters": settled[0], "optimizer": settled[1]})
    found.finish()
    assert distance(weights(found), weights(plain)) < 1e-6


@pytest.mark.parametrize(
    ("objective", "options"),
    [
        ("egpo", OPTIONS),
        ("past_egpo", OPTIONS),
        ("sppo", {"candidates": 4, "win_rates": "self_included", "iteration": 2, "momentum": 0.3}),
    ],
)
def test_a_learner_resumes_bit_for_bit_between_any_two_versions(
    folder: Path, tmp_path: Path, objective: str, options: dict[str, Any]
) -> None:
    whole = learner(folder, objective, **options)
    for cut in range(4):
        torch.save(whole.state(), tmp_path / "s")
        whole.update(BATCHES[cut], alone)
        resumed = learner(folder, objective, **options)
        resumed.restore(torch.load(tmp_path / "s", weights_only=True))
        resumed.update(BATCHES[cut], alone)
        assert equal(weights(resumed), weights(whole)), cut
        assert resumed.version == whole.version


def test_the_iterate_is_the_anchor_until_the_iteration_ends(folder: Path) -> None:
    options: dict[str, Any] = {"candidates": 4, "win_rates": "self_included", "iteration": 3}
    found = learner(folder, "sppo", **options)
    start = weights(found)
    for version in range(1, 5):
        found.update(BATCHES[version], alone)
        anchor = found._anchor
        assert anchor is not None
        if version < 3:
            assert equal(anchor, start)
        elif version == 3:
            assert equal(anchor, weights(found))
            third = weights(found)
        else:
            assert equal(anchor, third)
            assert distance(anchor, weights(found)) > 1e-4
    every = learner(folder, "sppo", **options | {"iteration": 1})
    for version in range(1, 5):
        every.update(BATCHES[version], alone)
    assert distance(weights(every), weights(found)) > 1e-5, "how long an iteration is matters"


def test_momentum_extrapolates_from_one_iteration_to_the_next(folder: Path) -> None:
    """APO: theta <- hat + alpha (hat - hat_previous)."""
    options: dict[str, Any] = {"candidates": 4, "win_rates": "self_included", "iteration": 1}
    with_momentum = learner(folder, "sppo", **options | {"momentum": 0.4})
    plain = learner(folder, "sppo", **options)
    previous = weights(plain)
    for batch in BATCHES[:2]:
        plain_step(plain, batch)
        reached = weights(plain)
        with torch.no_grad():
            for name, parameter in plain.policy.parameters().items():
                parameter.add_(reached[name] - previous[name], alpha=0.4)
        previous = reached
        with_momentum.update(batch, alone)
        assert distance(weights(with_momentum), weights(plain)) < 1e-6


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_mixture_lies_on_the_line_to_the_reference(folder: Path, method: str) -> None:
    found = learner(folder, "nash_md", method)
    batch = batches(1, found._objective.sampling.candidates)[0]
    policy, layout = found.policy, layout_of([work_of(found._objective, batch[0], 0)], True)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in policy.parameters().values():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
        reference = policy.sequence_logprobs(layout, reference=True)
        own = policy.sequence_logprobs(layout)
        with policy.under(policy.towards_reference(1.0)):
            assert torch.allclose(policy.sequence_logprobs(layout), reference, atol=1e-5)
        with policy.under(policy.towards_reference(0.0)):
            assert torch.equal(policy.sequence_logprobs(layout), own)
        with policy.under(found.published()["mixture"]):
            between = policy.sequence_logprobs(layout)
    assert (between - own).abs().max() > 1e-6
    assert not torch.allclose(own, reference, atol=1e-4)
    assert torch.equal(policy.sequence_logprobs(layout).detach(), own), "nothing is left behind"


def test_a_policy_over_allowed_tokens_is_normalised_over_them(folder: Path) -> None:
    """One-token answers from {5, 9, 200}: their probabilities are the full ones, renormalised."""
    allowed = (200, 5, 9)
    groups = [[5], [9], [200]]
    settings = config(learner__method="full", rollout__allowed_tokens=allowed)
    narrow = Policy(settings, str(folder), torch.device("cpu"))
    wide = Policy(config(learner__method="full"), str(folder), torch.device("cpu"))
    layout = pack_groups([([7, 8], groups)], True)
    restricted, full = narrow.sequence_logprobs(layout), wide.sequence_logprobs(layout)
    assert torch.allclose(restricted, full - full.logsumexp(0), atol=1e-5)
    assert np.isclose(restricted.exp().sum().item(), 1.0, atol=1e-6)
    assert full.exp().sum().item() < 0.5


def test_the_share_of_the_way_that_a_step_goes_is_measured(folder: Path) -> None:
    """Against the margins of the same pairs before and after the step; twice the rate goes about twice as far."""

    def share(rate: float) -> float:
        settings: dict[str, Any] = {"learner__epsilon": 1e-8, "learner__learning_rate": rate}
        objective = {"name": "online_ipo", "options": OPTIONS}
        found_config = config(**STABLE | {"learner__method": "full", "objective": objective} | settings)
        policy = Policy(found_config, str(folder), torch.device("cpu"))
        found = Learner(found_config, policy, build_objective("online_ipo", OPTIONS))
        return found.update(BATCHES[0], alone)["moved_share"]

    small, double = share(1e-5), share(2e-5)
    assert 0 < small < 0.5
    assert double == pytest.approx(2 * small, rel=0.1)
    assert share(0.0) == 0.0
