"""Supervised fine-tuning is the textbook's, however a batch is cut, and resumes bit for bit."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM

from actors.sft import Example, SftConfig, SftWorker, batch_of
from tests.tiny import make_model

EXAMPLES: list[Example] = [([5, 6, 7][: 1 + i % 3], [8 + i, 9 + i, 20 + 2 * i, 0][i % 2 :]) for i in range(10)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("tiny"), hidden=32)


def config(**learner: Any) -> SftConfig:
    stable = {"method": "full", "learning_rate": 1e-2, "epsilon": 1e-2, "autocast": False, "schedule": "linear"}
    return SftConfig(
        name="sft",
        model="folder",
        data={"conversations": "conversations.jsonl"},  # type: ignore[arg-type]
        steps=4,
        batch=4,
        learner={**stable, **learner},  # type: ignore[arg-type]
    )


def worker(folder: Path, **learner: Any) -> SftWorker:
    return SftWorker(config(**learner), str(folder), torch.device("cpu"))


def weights(found: SftWorker) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in found.model.named_parameters()}


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max((one[name] - other[name]).abs().max().item() for name in one)


def trained(folder: Path, **learner: Any) -> dict[str, torch.Tensor]:
    found = worker(folder, **learner)
    for step in range(3):
        found.update(batch_of(EXAMPLES, 4, 0, step))
    return weights(found)


def textbook_loss(model: Any, examples: list[Example]) -> torch.Tensor:
    """Sum over the answers' tokens, one row for every conversation, divided by the number of those tokens."""
    total = torch.zeros(())
    for prompt, answer in examples:
        labels = torch.tensor([[-100] * len(prompt) + answer])
        total = total + model(torch.tensor([prompt + answer]), labels=labels).loss * len(answer)
    return total / sum(len(answer) for _, answer in examples)


def test_three_updates_are_textbook_fine_tuning(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), eps=1e-2, weight_decay=0.0)
    found = worker(folder)
    for step in range(3):
        batch = batch_of(EXAMPLES, 4, 0, step)
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / 4)
        optimizer.zero_grad()
        loss = textbook_loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        assert found.update(batch)["loss"] == pytest.approx(loss.item(), abs=1e-5)
    assert distance(weights(found), dict(model.named_parameters())) < 2e-6
    assert found.loss(EXAMPLES) == pytest.approx(textbook_loss(model, EXAMPLES).item(), abs=1e-5)
    assert found.tokens == sum(len(answer) for step in range(3) for _, answer in batch_of(EXAMPLES, 4, 0, step))


@pytest.mark.parametrize("learner", [{"token_budget": 1}, {"token_budget": 10}, {"chunk_tokens": 3}], ids=str)
def test_how_a_batch_is_cut_does_not_change_the_update(folder: Path, learner: dict[str, Any]) -> None:
    assert distance(trained(folder, **learner), trained(folder)) < 2e-6


@pytest.mark.parametrize(
    "learner",
    [
        {"learning_rate": 2e-2},
        {"schedule": "constant"},
        {"warmup_steps": 2},
        {"weight_decay": 0.1},
        {"betas": (0.5, 0.99)},
        {"gradient_clip": 1e-3},
        {"autocast": True},
    ],
    ids=str,
)
def test_every_switch_changes_the_weights(folder: Path, learner: dict[str, Any]) -> None:
    assert distance(trained(folder, **learner), trained(folder)) > 1e-6


def test_workers_split_a_batch_and_share_its_gradient(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two halves of the gradient, added, are the gradient of the whole batch."""
    whole = worker(folder)
    batch = batch_of(EXAMPLES, 4, 0, 0)
    parts = [SftWorker(config(), str(folder), torch.device("cpu"), rank, 2) for rank in range(2)]
    layouts = [layout for part in parts for layout in part._layouts(batch)]
    assert sum(len(layout.targets) for layout in layouts) == sum(len(answer) for _, answer in batch)
    total = sum(part._logprobs(layout).sum() for part in parts for layout in part._layouts(batch))
    assert isinstance(total, torch.Tensor)
    assert -total.item() / sum(len(answer) for _, answer in batch) == pytest.approx(whole.loss(batch), abs=1e-5)


def test_it_resumes_bit_for_bit(folder: Path) -> None:
    straight, file = worker(folder), io.BytesIO()
    for step in range(4):
        straight.update(batch_of(EXAMPLES, 4, 0, step))
        if step == 1:
            torch.save(straight.state(), file)
    file.seek(0)
    resumed = worker(folder)
    resumed.restore(torch.load(file, weights_only=True))
    for step in range(resumed.step, 4):
        resumed.update(batch_of(EXAMPLES, 4, 0, step))
    assert distance(weights(resumed), weights(straight)) == 0
    assert (resumed.step, resumed.tokens) == (straight.step, straight.tokens)


def test_every_epoch_has_every_example_once_in_an_order_of_its_own() -> None:
    places = [([i], [i]) for i in range(10)]
    seen = [example[0][0] for step in range(5) for example in batch_of(places, 4, 0, step)]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]
    assert seen[:4] != [example[0][0] for example in batch_of(places, 4, 1, 0)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"make": {"hidden": 64, "layers": 1, "feedforward": 64}}, "either model"),
        ({"model": None}, "either model"),
        ({"learner": {"method": "lora"}}, "full weights"),
        ({"learner": {"method": "full", "warmup_steps": 9}}, "is more than steps"),
        ({"model": None, "make": {"hidden": 48, "layers": 1, "feedforward": 64}}, "multiple of 32"),
    ],
    ids=str,
)
def test_an_inconsistent_configuration_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SftConfig.model_validate(config().model_dump() | changes)
