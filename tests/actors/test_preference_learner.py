"""Training of preference models: what a step may not depend on, what every option changes, and what is saved."""

import copy
import math
import random
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actors.models import ModelError
from actors.preference_config import PreferenceModelConfig
from actors.preference_data import Comparison, Rating, Record
from actors.preference_examples import Attributes, Example, attributes_of, build_encoder, example_of
from actors.preference_learner import PreferenceLearner
from actors.preference_training import batch_of, steps_of
from actors.reward_models import GeneralPreferenceModel, PairClassifier, RewardModel, load_preference_model
from actors.work import alone

CPU = torch.device("cpu")
STEPS = 6
PAIR = {"kind": "pair_classifier"}


def letters(generator: random.Random, length: int) -> str:
    return "".join(generator.choice("abcdefgh") for _ in range(length))


def comparisons(count: int) -> list[Comparison]:
    """The response with more a's is preferred, if either; lengths differ."""
    generator = random.Random(0)
    rows = []
    for i in range(count):
        first, second = (letters(generator, generator.randint(4, 12)) for _ in range(2))
        target = 0.5 + 0.5 * float(np.sign(first.count("a") - second.count("a")))
        asked = ({"role": "user", "content": f"question {i}"},)
        rows.append(Comparison(messages=asked, first=first, second=second, target=target))
    return rows


def ratings(count: int) -> list[Rating]:
    """Every other response has no score for b."""
    generator = random.Random(0)
    rows = []
    for i in range(count):
        text = letters(generator, 10)
        scores = {"a": 10.0 * text.count("a"), "b": float(text.count("b")) if i % 2 else math.nan}
        rows.append(Rating(messages=({"role": "user", "content": "question"},), response=text, scores=scores))
    return rows


class Trained:
    """A learner on the tiny model, and the records it learns from."""

    def __init__(self, folder: Path, records: Sequence[Record], member: int = 0, **tree: Any) -> None:
        base: dict[str, Any] = {
            "name": "test",
            "model": {"name": str(folder), "dtype": "float32"},
            "data": {"train": "unused"},
            "training": {"method": "full", "learning_rate": 1e-3, "batch": 8},
        }
        for key, value in tree.items():
            base[key] = base[key] | value if isinstance(base.get(key), dict) else value
        self.config = PreferenceModelConfig.model_validate(base)
        self.records = records
        rated = [record for record in records if isinstance(record, Rating)]
        self.attributes: Attributes | None = attributes_of(rated) if rated else None
        self.encoder = build_encoder(self.config, str(folder))
        self.learner = PreferenceLearner(
            self.config, str(folder), CPU, member=member, steps=STEPS, attributes=self.attributes
        )

    def batch(self) -> list[Example]:
        pair = self.config.objective.kind == "pair_classifier"
        taken = batch_of(self.records, self.config.training.batch, self.learner.step, seed=0)
        return [example_of(record, self.encoder, pair, self.attributes) for record in taken]

    def run(self, steps: int = 2) -> dict[str, torch.Tensor]:
        for _ in range(steps):
            self.metrics = self.learner.update(self.batch(), 0, 1, alone)
        return self.parameters()

    def parameters(self) -> dict[str, torch.Tensor]:
        return {name: p.detach().clone() for name, p in self.learner.parameters().items()}


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize("kind", ["bradley_terry", "general_preference", "pair_classifier", "regression"])
def test_a_step_depends_neither_on_micro_batches_nor_on_workers(tiny_model: Path, kind: str) -> None:
    records: list[Any] = ratings(24) if kind == "regression" else comparisons(24)
    contrast = {"contrast": 0.5} if kind == "bradley_terry" else {}
    options: dict[str, Any] = {"objective": {"kind": kind, **contrast}}
    together = Trained(tiny_model, records, **options)
    together.run()
    apart = Trained(tiny_model, records, **options, training={"token_budget": 1})
    assert distance(together.parameters(), apart.run()) < 1e-5
    workers = [Trained(tiny_model, records, **options) for _ in range(2)]
    run_side_by_side(workers)
    for worker in workers:
        assert distance(together.parameters(), worker.parameters()) < 1e-5
        assert worker.metrics["loss"] == pytest.approx(together.metrics["loss"], abs=1e-5)
    assert distance(together.parameters(), Trained(tiny_model, records, **options).parameters()) > 1e-4


def run_side_by_side(workers: Sequence[Trained]) -> None:
    """Two steps of data-parallel workers, each a thread; sums meet at a barrier."""
    barrier, given = threading.Barrier(len(workers)), [torch.empty(0)] * len(workers)

    def work(rank: int, worker: Trained) -> None:
        def add(tensor: torch.Tensor) -> torch.Tensor:
            given[rank] = tensor.clone()
            barrier.wait(30)
            tensor.copy_(torch.stack(given).sum(0))
            barrier.wait(30)
            return tensor

        for _ in range(2):
            worker.metrics = worker.learner.update(worker.batch(), rank, len(workers), add)

    threads = [threading.Thread(target=work, args=entry) for entry in enumerate(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)


@pytest.mark.parametrize("method", ["full", "lora", "head"])
def test_a_restored_learner_goes_on_bit_for_bit(tiny_model: Path, method: str) -> None:
    options: dict[str, Any] = {"training": {"method": method, "lora": {"rank": 2, "dropout": 0.1}}}
    unbroken = Trained(tiny_model, comparisons(24), **options)
    unbroken.run(2)
    # As a checkpoint is read: a copy that later steps do not touch.
    state = copy.deepcopy(unbroken.learner.state())
    resumed = Trained(tiny_model, comparisons(24), **options)
    resumed.learner.restore(state)
    assert distance(unbroken.run(2), resumed.run(2)) == 0.0


def test_members_differ_and_each_follows_from_its_seed(tiny_model: Path) -> None:
    first, again = (Trained(tiny_model, comparisons(24)).run() for _ in range(2))
    other = Trained(tiny_model, comparisons(24), member=1).run()
    seeded = Trained(tiny_model, comparisons(24), seed=1).run()
    assert distance(first, again) == 0.0
    assert distance(first, other) > 1e-3
    assert distance(first, seeded) > 1e-3


GPM = {"kind": "general_preference"}
LORA = {"method": "lora"}
CONTRAST = {"contrast": 0.5}


@pytest.mark.parametrize(
    ("base", "changed"),
    [
        ({}, {"objective": {"smoothing": 0.1}}),
        ({}, {"objective": CONTRAST}),
        ({"objective": CONTRAST}, {"objective": CONTRAST | {"contrast_pairs": 4}}),
        ({"objective": GPM}, {"objective": GPM | {"temperature": 0.5}}),
        ({"objective": PAIR}, {"objective": PAIR | {"labels": ("C", "D")}}),
        ({"objective": PAIR}, {"objective": PAIR, "model": {"template": "{first}{second}{prompt}"}}),
        ({}, {"model": {"template": "{prompt} {response}"}}),
        ({}, {"model": {"window": 16, "truncation_side": "left"}}),
        ({}, {"training": {"learning_rate": 2e-3}}),
        ({}, {"training": {"weight_decay": 0.5}}),
        ({}, {"training": {"gradient_clip": 1e-9}}),
        ({}, {"training": {"betas": (0.0, 0.9)}}),
        ({}, {"training": {"schedule": "constant"}}),
        ({}, {"training": {"warmup_share": 0.5}}),
        ({}, {"training": {"batch": 4}}),
        ({"training": LORA}, {"training": LORA | {"lora": {"alpha": 4}}}),
        ({"training": LORA}, {"training": LORA | {"lora": {"dropout": 0.5}}}),
        ({"model": {"dtype": "bfloat16"}}, {"model": {"dtype": "bfloat16"}, "training": {"autocast": False}}),
    ],
)
def test_options_change_what_is_learned(tiny_model: Path, base: dict[str, Any], changed: dict[str, Any]) -> None:
    plain = Trained(tiny_model, comparisons(24), **base).run()
    assert distance(plain, Trained(tiny_model, comparisons(24), **changed).run()) > 1e-6


def test_gradient_checkpointing_changes_nothing_but_memory(tiny_model: Path) -> None:
    plain, saving = (
        Trained(tiny_model, comparisons(24), training={"method": "lora", "gradient_checkpointing": on})
        for on in (False, True)
    )
    assert distance(plain.run(), saving.run()) < 1e-6
    assert saving.learner._model.is_gradient_checkpointing


@pytest.mark.parametrize("kind", ["bradley_terry", "general_preference", "pair_classifier"])
def test_a_margin_changes_what_is_learned(tiny_model: Path, kind: str) -> None:
    plain = comparisons(24)
    asking = [
        Comparison(messages=c.messages, first=c.first, second=c.second, target=c.target, margin=c.target * 2.0 - 1.0)
        for c in plain
    ]
    options: dict[str, Any] = {"objective": {"kind": kind}}
    assert distance(Trained(tiny_model, plain, **options).run(), Trained(tiny_model, asking, **options).run()) > 1e-6


def test_what_is_trained_is_what_the_method_says(tiny_model: Path) -> None:
    def names(method: str) -> set[str]:
        return set(Trained(tiny_model, comparisons(8), training={"method": method}).parameters())

    assert names("head") == {"score.weight"}
    assert names("lora") > {"score.weight"}
    few = Trained(tiny_model, comparisons(8), training={"method": "lora", "lora": {"targets": ["q_proj"], "rank": 2}})
    assert {name.split(".")[4] for name in few.parameters() if "lora" in name} == {"q_proj"}
    assert {p.shape[0] for name, p in few.parameters().items() if "lora_A" in name} == {2}
    assert all("lora_" in name for name in names("lora") - {"score.weight"})
    assert len(names("full")) == 21
    six = Trained(tiny_model, comparisons(8), objective={"kind": "general_preference", "dimensions": 6})
    assert six.parameters()["score.weight"].shape[0] == 6


def test_features_of_a_frozen_body_give_what_the_whole_model_gives(tiny_model: Path) -> None:
    """Adapters of rate 0 leave the body as it is, so that only the head moves, through the whole model."""
    head = Trained(tiny_model, comparisons(24), training={"method": "head"})
    whole = Trained(tiny_model, comparisons(24), training={"method": "lora"})
    for name, parameter in whole.learner._model.named_parameters():
        parameter.requires_grad_(name == "score.weight")
    whole.learner._optimizer.param_groups[0]["params"] = list(whole.learner.parameters().values())
    start = {"score.weight": head.parameters()["score.weight"]}
    with torch.no_grad():
        whole.learner.parameters()["score.weight"].copy_(start["score.weight"])
    assert distance(head.run(3), whole.run(3)) < 1e-6
    assert distance(head.parameters(), start) > 1e-4


@pytest.mark.parametrize(
    ("kind", "loaded"),
    [
        ("bradley_terry", RewardModel),
        ("general_preference", GeneralPreferenceModel),
        ("pair_classifier", PairClassifier),
        ("regression", RewardModel),
    ],
)
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_saved_model_loads_and_says_what_the_trained_one_said(
    tiny_model: Path, tmp_path: Path, kind: str, method: str, loaded: type
) -> None:
    records: list[Any] = ratings(24) if kind == "regression" else comparisons(24)
    trained = Trained(tiny_model, records, objective={"kind": kind}, training={"method": method, "learning_rate": 1e-2})
    trained.run(3)
    batch = trained.batch()
    losses = trained.learner._losses(batch, torch.zeros(8, 3, 1))[0].tolist()
    taken = batch_of(records, 8, 3, seed=0)
    trained.learner.save(tmp_path / "model")
    model = load_preference_model(str(tmp_path / "model"))
    assert isinstance(model, loaded)
    again = load_preference_model(str(tmp_path / "model"))
    for record, loss in zip(taken, losses, strict=True):
        if isinstance(record, Rating):
            assert isinstance(model, RewardModel)
            assert isinstance(again, RewardModel)
            assert model.heads == ("a", "b")
            assert trained.attributes
            found = model.scores(record.messages, [record.response])[0]
            errors = (found - list(record.scores.values())) / trained.attributes.scale
            assert np.nansum(errors**2) == pytest.approx(loss, abs=1e-4)
            assert (found == again.scores(record.messages, [record.response])[0]).all()
            continue
        texts = [record.first, record.second]
        if isinstance(model, PairClassifier):
            probability = model.orders(record.messages, texts)[0, 1]
        else:
            probability = model.matrix(record.messages, texts)[0, 1]
        expected = -record.target * math.log(probability) - (1.0 - record.target) * math.log1p(-probability)
        assert expected == pytest.approx(loss, abs=1e-4)
        assert (model.matrix(record.messages, texts) == again.matrix(record.messages, texts)).all()


def test_what_is_saved_has_the_number_format_asked_for_and_a_float32_head(tiny_model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    trained = Trained(tiny_model, comparisons(8), model={"dtype": "bfloat16"}, training={"method": "lora"})
    trained.run(1)
    trained.learner.save(tmp_path)
    formats = {name: tensor.dtype for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    assert formats.pop("score.weight") == torch.float32
    assert set(formats.values()) == {torch.bfloat16}


def test_attributes_are_standardised_over_the_ratings_that_have_them() -> None:
    asked = ({"role": "user", "content": "?"},)
    scores = [{"a": 1.0, "b": 5.0}, {"a": 3.0, "b": math.nan}]
    found = attributes_of([Rating(messages=asked, response="x", scores=s) for s in scores])
    assert found == Attributes(names=("a", "b"), offset=(2.0, 5.0), scale=(1.0, 1.0))


def test_every_epoch_takes_every_record_once(tiny_model: Path) -> None:
    records = comparisons(10)
    config = Trained(tiny_model, records, training={"batch": 4, "epochs": 2}).config
    assert steps_of(config, 10) == 6
    epochs = [[r for step in range(3 * e, 3 * e + 3) for r in batch_of(records, 4, step, seed=0)] for e in (0, 1)]
    for epoch in epochs:
        assert sorted(r.messages[0]["content"] for r in epoch) == sorted(r.messages[0]["content"] for r in records)
    assert epochs[0] != epochs[1]
    turned = [record not in records for epoch in epochs for record in epoch]
    assert 0 < sum(turned) < 20
    assert batch_of(records, 4, 1, seed=1) != batch_of(records, 4, 1, seed=0)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"objective": {"kind": "regression", "smoothing": 0.1}}, "regression takes no option smoothing"),
        ({"objective": {"kind": "bradley_terry", "dimensions": 6}}, "its options are: contrast"),
        ({"objective": {"kind": "pair_classifier"}, "training": {"method": "head"}}, "has no head of its own"),
        ({"objective": {"contrast": 0.5}, "training": {"method": "head"}}, "leaves as they are"),
        ({"objective": {"kind": "general_preference", "dimensions": 3}}, "multiple of 2"),
    ],
)
def test_options_that_could_do_nothing_are_refused(tiny_model: Path, tree: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Trained(tiny_model, comparisons(8), **tree)


def test_a_start_that_can_not_be_trained_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    Trained(tiny_model, comparisons(8)).learner.save(tmp_path / "reward")
    with pytest.raises(ModelError, match="can't be the start of a general preference"):
        Trained(tmp_path / "reward", comparisons(8), objective={"kind": "general_preference"})
    with pytest.raises(ModelError, match="two labels of one token"):
        Trained(tiny_model, comparisons(8), objective={"kind": "pair_classifier", "labels": ("yes", "no")})
