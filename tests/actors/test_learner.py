"""One update is textbook DPO, however the batch is cut into micro-batches or over workers, and resumes bit for bit."""

import io
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import logsigmoid
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from actors.learner import Learner
from actors.policy import Policy
from actors.records import Group
from actors.work import alone
from algorithms.objective import build_objective
from tests.examples import config, group, random_groups
from tests.tiny import make_model

# A large epsilon keeps AdamW's division from turning rounding of tiny gradients into whole steps.
STABLE: dict[str, Any] = {
    "learner__learning_rate": 1e-2,
    "learner__epsilon": 1e-2,
    "learner__schedule": "constant",
    "learner__gradient_clip": 1e9,
}
BETA = 0.1
BATCHES = [random_groups(4, seed=version) for version in range(3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("tiny"), hidden=32)


def learner(folder: Path, **changes: Any) -> Learner:
    settings = config(**{"learner__method": "full", **STABLE, **changes})
    objective = build_objective(settings.objective.name, settings.objective.options)
    return Learner(settings, Policy(settings, str(folder), torch.device("cpu")), objective)


def weights(found: Learner) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in found.policy.parameters().items()}


def trained(folder: Path, batches: Sequence[Sequence[Group]] = BATCHES, **changes: Any) -> dict[str, torch.Tensor]:
    found = learner(folder, **changes)
    for batch in batches:
        found.update(batch, alone)
    return weights(found)


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


# The textbook


def separate_logprob(model: Any, found: Group, k: int) -> torch.Tensor:
    prompt, completion = found.prompt_ids.tolist(), found.candidates[k].token_ids.tolist()
    logits = model(torch.tensor([prompt + completion])).logits[0]
    logprobs = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    total: torch.Tensor = logprobs.gather(-1, torch.tensor(completion)[:, None]).sum()
    return total


def textbook_dpo(model: Any, reference: Any, batches: Sequence[Sequence[Group]]) -> None:
    """All pairs (i, j), i < j, with i preferred; one row and one forward pass for every completion of every pair."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, betas=(0.9, 0.99), eps=1e-2, weight_decay=0.0)
    for batch in batches:
        losses = []
        for found in batch:
            for i, j in ((0, 1), (0, 2), (1, 2)):
                chosen, rejected = separate_logprob(model, found, i), separate_logprob(model, found, j)
                with torch.no_grad():
                    anchor = separate_logprob(reference, found, i) - separate_logprob(reference, found, j)
                losses.append(-logsigmoid(BETA * (chosen - rejected - anchor)))
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        optimizer.step()


def test_three_updates_are_textbook_dpo(folder: Path) -> None:
    model, reference = (AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32) for _ in range(2))
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    textbook_dpo(model, reference, BATCHES)
    expected = {name: parameter.detach() for name, parameter in model.named_parameters()}
    assert distance(start, expected) > 1e-2
    assert distance(trained(folder), expected) < 2e-6


def test_three_updates_of_an_adapter_are_textbook_dpo(folder: Path) -> None:
    found, twin = learner(folder, learner__method="lora"), learner(folder, learner__method="lora")
    start = weights(found)
    for batch in BATCHES:
        found.update(batch, alone)
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    textbook_dpo(twin.policy.model, reference, BATCHES)
    assert distance(start, weights(twin)) > 1e-2
    assert distance(weights(found), weights(twin)) < 2e-6


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_reference_never_moves(folder: Path, method: str) -> None:
    found = learner(folder, learner__method=method)
    for batch in BATCHES:
        found.update(batch, alone)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    if method == "full":
        assert found.policy.reference is not None
        reference = found.policy.reference.state_dict()
    else:
        reference = {
            name.replace(".base_layer", ""): tensor
            for name, tensor in found.policy.model.state_dict().items()
            if "lora_" not in name
        }
    assert reference.keys() == base.keys()
    assert all(torch.equal(reference[name], base[name]) for name in base)


# How the batch is cut


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize(
    "changes",
    [
        {"learner__token_budget": 1},
        {"learner__token_budget": 60},
        {"learner__chunk_tokens": 3},
        {"learner__share_prompts": False},
        {"learner__share_prompts": False, "learner__token_budget": 60},
        {"learner__gradient_checkpointing": True},
        {"learner__gradient_checkpointing": True, "learner__share_prompts": False},
    ],
    ids=str,
)
def test_how_it_is_computed_does_not_change_the_update(folder: Path, method: str, changes: dict[str, Any]) -> None:
    whole = trained(folder, learner__method=method, learner__token_budget=100_000)
    assert distance(trained(folder, learner__method=method, **changes), whole) < 2e-6


def test_the_update_does_not_depend_on_the_order_of_groups(folder: Path) -> None:
    assert distance(trained(folder, [batch[::-1] for batch in BATCHES]), trained(folder)) < 2e-6


def over_workers(
    folder: Path, shares: Sequence[Sequence[int]], batches: Sequence[Sequence[Group]]
) -> tuple[list[Learner], list[list[dict[str, float]]]]:
    """Train in one thread a worker, which meet for every sum as processes do."""
    workers = [learner(folder) for _ in shares]
    barrier = threading.Barrier(len(shares), timeout=30)
    offered: list[torch.Tensor] = [torch.empty(0)] * len(shares)
    metrics: list[list[dict[str, float]]] = [[] for _ in shares]

    def adder(rank: int) -> Callable[[torch.Tensor], torch.Tensor]:
        def add(tensor: torch.Tensor) -> torch.Tensor:
            offered[rank] = tensor.clone()
            barrier.wait()
            tensor.copy_(torch.stack(offered).sum(0))
            barrier.wait()
            return tensor

        return add

    def work(rank: int) -> None:
        for batch in batches:
            metrics[rank].append(workers[rank].update([batch[i] for i in shares[rank]], adder(rank)))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(len(shares))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return workers, metrics


@pytest.mark.parametrize("shares", [[[0, 1], [2, 3]], [[0], [1, 2, 3]], [[], [0, 1, 2, 3]]], ids=str)
def test_workers_together_make_the_update_of_one(folder: Path, shares: list[list[int]]) -> None:
    alone_learner = learner(folder)
    expected = [alone_learner.update(batch, alone) for batch in BATCHES]
    workers, metrics = over_workers(folder, shares, BATCHES)
    assert distance(weights(workers[0]), weights(workers[1])) == 0, "workers must stay bit for bit the same"
    assert distance(weights(workers[0]), weights(alone_learner)) < 2e-6
    for step, whole in enumerate(expected):
        for own in metrics:
            found = {key: value for key, value in own[step].items() if key != "learner_busy_seconds"}
            assert found == pytest.approx({key: whole[key] for key in found}, rel=1e-4, abs=1e-5)


def test_every_pair_of_the_batch_weighs_the_same(folder: Path) -> None:
    """A group with one usable pair counts a third of a group with three, wherever it is computed."""
    tie = np.array([[0.5, 0.5, 1.0], [0.5, 0.5, 0.5], [0.0, 0.5, 0.5]])
    batch = [replace(BATCHES[0][0], preference=tie), *BATCHES[0][1:]]
    workers, metrics = over_workers(folder, [[0], [1, 2, 3]], [batch])
    assert metrics[0][0]["pairs"] == 10
    assert metrics[0][0]["dropped_pairs"] == 2
    assert distance(weights(workers[0]), trained(folder, [batch])) < 2e-6


class Watch(TorchDispatchMode):
    """Counts matrix products, and remembers the most rows of vocabulary scores that one tensor held."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._vocabulary = vocabulary
        self.products = 0
        self.rows = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.products += func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm)
        is_view = func.overloadpacket in (torch.ops.aten.t, torch.ops.aten.transpose, torch.ops.aten.detach)
        if isinstance(result, torch.Tensor) and not is_view and result.shape[-1:] == (self._vocabulary,):
            self.rows = max(self.rows, result.numel() // self._vocabulary)
        return result


def watched(folder: Path, **changes: Any) -> Watch:
    # An adapter, because gradients of a full head have the vocabulary's shape themselves.
    found = learner(folder, learner__method="lora", **changes)
    watch = Watch(vocabulary=260)
    with watch:
        found.update(BATCHES[0], alone)
    return watch


def test_a_table_of_tokens_by_vocabulary_never_exists(folder: Path) -> None:
    tokens = sum(len(candidate.token_ids) for found in BATCHES[0] for candidate in found.candidates)
    assert watched(folder, learner__chunk_tokens=5).rows == 5
    assert watched(folder, learner__chunk_tokens=10_000).rows == tokens


def test_checkpointing_computes_the_forward_pass_again(folder: Path) -> None:
    assert watched(folder, learner__gradient_checkpointing=True).products > watched(folder).products


def test_the_token_budget_decides_the_number_of_micro_batches(folder: Path) -> None:
    products = [watched(folder, learner__token_budget=budget).products for budget in (1, 60, 10_000)]
    assert products == sorted(products, reverse=True)
    assert len(set(products)) == 3


def test_a_prompt_is_computed_once_a_group_or_once_a_completion(folder: Path) -> None:
    prompts = sum(len(found.prompt_ids) for found in BATCHES[0])
    completions = sum(len(candidate.token_ids) for found in BATCHES[0] for candidate in found.candidates)
    for shared, times in ((True, 1), (False, 3)):
        metrics = learner(folder, learner__share_prompts=shared).update(BATCHES[0], alone)
        assert metrics["batch_trained_tokens"] == times * prompts + completions
        assert metrics["batch_generated_tokens"] == completions


# Continuing


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_learner_resumes_bit_for_bit(folder: Path, method: str) -> None:
    changes = {"learner__method": method, "learner__schedule": "linear"}
    straight = learner(folder, **changes)
    file = io.BytesIO()
    metrics: dict[str, float] = {}
    for version, batch in enumerate(BATCHES):
        metrics = straight.update(batch, alone)
        if version == 1:
            torch.save(straight.state(), file)
    file.seek(0)
    resumed = learner(folder, **changes)
    resumed.restore(torch.load(file, weights_only=True))
    assert resumed.version == 2
    again = resumed.update(BATCHES[2], alone)
    assert distance(weights(resumed), weights(straight)) == 0
    assert {**again, "learner_busy_seconds": 0} == {**metrics, "learner_busy_seconds": 0}


def test_the_optimizer_is_part_of_the_state(folder: Path) -> None:
    straight, forgetful = learner(folder), learner(folder)
    straight.update(BATCHES[0], alone)
    forgetful.restore({**straight.state(), "optimizer": forgetful.state()["optimizer"]})
    for found in (straight, forgetful):
        found.update(BATCHES[1], alone)
    assert distance(weights(straight), weights(forgetful)) > 1e-4


def test_the_same_batches_give_the_same_weights(folder: Path) -> None:
    assert distance(trained(folder), trained(folder)) == 0


def test_a_published_snapshot_is_not_changed_by_later_updates(folder: Path) -> None:
    found = learner(folder)
    found.update(BATCHES[0], alone)
    published = found.policy.published_tensors()
    kept = {name: tensor.clone() for name, tensor in published.items()}
    found.update(BATCHES[1], alone)
    assert distance(published, kept) == 0
    assert distance(found.policy.published_tensors(), kept) > 1e-4


@pytest.mark.parametrize("link", ["logistic", "logistic_length_averaged"])
def test_the_margin_that_is_told_is_what_the_loss_saw(folder: Path, link: str) -> None:
    one_pair = [group(0, [5, 6], [[7, 8, 9, 10], [11]])]
    found = learner(folder, objective__options={"link": link, "beta": 1.0})
    told = [found.update(one_pair, alone) for _ in range(3)]
    assert told[-1]["margin"] > 0.01, "it has learned"
    for metrics in told:
        assert metrics["loss"] == pytest.approx(np.log1p(np.exp(-metrics["margin"])), rel=1e-4)


# What trains nothing


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_learning_rate_of_zero_changes_nothing(folder: Path, method: str) -> None:
    found = learner(folder, learner__method=method, learner__learning_rate=0.0, learner__weight_decay=0.1)
    start = weights(found)
    for batch in BATCHES:
        metrics = found.update(batch, alone)
        assert metrics["kl"] == 0
        assert metrics["kl_k3"] == 0
        assert metrics["margin"] == 0
        assert metrics["loss"] == pytest.approx(np.log(2))
    assert all(torch.equal(start[name], after) for name, after in weights(found).items())


def test_a_batch_of_ties_trains_nothing_and_is_a_version(folder: Path) -> None:
    ties = [replace(found, preference=np.full((3, 3), 0.5)) for found in BATCHES[0]]
    found = learner(folder, learner__weight_decay=0.1)
    found.update(BATCHES[0], alone)
    before = weights(found)
    metrics = found.update(ties, alone)
    assert distance(weights(found), before) == 0, "not even momentum or weight decay"
    assert found.version == 2
    assert (metrics["pairs"], metrics["dropped_pairs"], metrics["gradient_norm"]) == (0, 12, 0)
    assert all(np.isfinite(value) for value in metrics.values())


def test_identical_texts_make_no_pair(folder: Path) -> None:
    twins = [group(0, [5, 6], [[7, 8], [7, 8], [9]])]
    metrics = learner(folder).update(twins, alone)
    assert (metrics["pairs"], metrics["dropped_pairs"]) == (2, 1)
