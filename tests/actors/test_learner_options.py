"""Every switch of the learner changes something, and its metrics say what happened."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from actors.config import LearnerConfig
from actors.records import Group
from actors.work import alone
from algorithms.schedules import learning_rate_factor
from tests.actors.test_learner import BATCHES, distance, learner, trained, weights
from tests.actors.test_policy import plain
from tests.examples import group
from tests.tiny import make_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("tiny"), hidden=32)


@pytest.mark.parametrize(
    "changes",
    [
        {"learner__learning_rate": 2e-2},
        {"learner__schedule": "linear"},
        {"learner__schedule": "cosine"},
        {"learner__schedule": "wsd", "learner__decay_share": 0.9},
        {"learner__schedule": "rex"},
        {"learner__schedule": "curve", "learner__curve": [1.0, 3.0]},
        {"learner__warmup_steps": 2},
        {"learner__schedule": "linear", "learner__minimum_rate": 1.0, "learner__warmup_steps": 1},
        {"learner__weight_decay": 0.1},
        {"learner__betas": (0.5, 0.99)},
        {"learner__betas": (0.9, 0.5)},
        {"learner__epsilon": 1e-8},
        {"learner__gradient_clip": 1e-3},
        {"objective__options": {"candidates": 3, "pair_choice": "best_worst"}},
        {"objective__options": {"candidates": 3, "pair_choice": "all", "beta": 0.5}},
        {"rollout__temperature": 0.5},
    ],
    ids=str,
)
def test_every_switch_changes_the_weights(folder: Path, changes: dict[str, Any]) -> None:
    assert distance(trained(folder, **changes), trained(folder)) > 1e-5


def test_an_adapter_starts_from_the_seed(folder: Path) -> None:
    one, other = (weights(learner(folder, learner__method="lora", seed=seed)) for seed in (0, 1))
    assert distance(one, other) > 1e-3


@pytest.mark.parametrize("lora", [{"rank": 4}, {"targets": ["q_proj", "v_proj"]}])
def test_adapters_differ_in_shape(folder: Path, lora: dict[str, Any]) -> None:
    default = weights(learner(folder, learner__method="lora"))
    other = weights(learner(folder, learner__method="lora", learner__lora=lora))
    assert {n: t.shape for n, t in other.items()} != {n: t.shape for n, t in default.items()}


@pytest.mark.parametrize("lora", [{"alpha": 8.0}, {"dropout": 0.3}])
def test_adapters_of_one_shape_train_differently(folder: Path, lora: dict[str, Any]) -> None:
    default = trained(folder, learner__method="lora")
    assert distance(trained(folder, learner__method="lora", learner__lora=lora), default) > 1e-5


def test_dropout_follows_the_version_not_the_process(folder: Path) -> None:
    changes: dict[str, Any] = {"learner__method": "lora", "learner__lora": {"dropout": 0.3}}
    first = trained(folder, **changes)
    torch.rand(7)
    assert distance(trained(folder, **changes), first) == 0


def test_autocast_rounds(folder: Path) -> None:
    exact, rounded = (
        trained(folder, model__dtype="bfloat16", learner__autocast=autocast) for autocast in (False, True)
    )
    assert distance(exact, rounded) > 1e-6


def rates(folder: Path, **changes: Any) -> list[float]:
    found = learner(folder, loop__steps=6, learner__learning_rate=0.01, **changes)
    batch = [group(0, [5], [[6], [7], [8]])]
    return [found.update(batch, alone)["learning_rate"] for _ in range(6)]


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "wsd", "rex"])
@pytest.mark.parametrize(("warmup", "minimum"), [(0, 0.0), (2, 0.25)])
def test_the_rate_follows_its_schedule(folder: Path, schedule: Any, warmup: int, minimum: float) -> None:
    found = rates(folder, learner__schedule=schedule, learner__warmup_steps=warmup, learner__minimum_rate=minimum)
    expected = [0.01 * learning_rate_factor(step, 6, warmup, schedule, minimum) for step in range(6)]
    assert found == pytest.approx(expected)


def test_schedules_differ(folder: Path) -> None:
    found = [
        tuple(rates(folder, learner__schedule=schedule, learner__minimum_rate=minimum, learner__warmup_steps=warmup))
        for schedule, minimum, warmup in (
            ("constant", 0.0, 0),
            ("linear", 0.0, 0),
            ("cosine", 0.0, 0),
            ("linear", 0.5, 0),
            ("linear", 0.0, 2),
            ("wsd", 0.0, 0),
            ("rex", 0.0, 0),
        )
    ]
    assert len(set(found)) == 7


def test_the_shape_of_a_schedule_is_the_configured_one(folder: Path) -> None:
    wsd = {"learner__schedule": "wsd", "learner__decay_share": 0.5}
    assert rates(folder, **wsd, learner__decay_shape="linear") == pytest.approx([0.01] * 4 + [0.02 / 3, 0.01 / 3])
    assert rates(folder, **wsd)[4] == pytest.approx(0.01 * (1 - (1 / 3) ** 0.5))
    assert rates(folder, learner__schedule="rex", learner__rex_beta=0.25)[3] == pytest.approx(0.01 * 0.5 / 0.625)
    curve = rates(folder, learner__schedule="curve", learner__curve=[2.0, 4.0, 0.0])
    assert curve == pytest.approx([0.005, 0.02 / 3, 0.025 / 3, 0.01, 0.02 / 3, 0.01 / 3])


@pytest.mark.parametrize("changes", [{"schedule": "curve"}, {"curve": [1, 2]}, {"schedule": "curve", "curve": [0, 0]}])
def test_a_curve_that_says_nothing_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="curve"):
        LearnerConfig(**changes)


def test_weight_decay_shrinks_matrices_and_leaves_vectors(folder: Path) -> None:
    """Without a gradient AdamW's step is the decay alone: p <- p (1 - rate * decay)."""
    found = learner(folder, learner__weight_decay=0.5, learner__learning_rate=0.1)
    one_pair = [group(0, [5, 6], [[7], [8]])]
    start = weights(found)
    for parameter in found.policy.parameters().values():
        parameter.register_hook(torch.zeros_like)
    found.update(one_pair, alone)
    vectors = 0
    for name, after in weights(found).items():
        vectors += after.ndim < 2
        expected = start[name] * (1 - 0.1 * 0.5) if after.ndim >= 2 else start[name]
        torch.testing.assert_close(after, expected)
    assert vectors > 0


def test_clipping_bounds_the_gradient_and_is_counted(folder: Path) -> None:
    # Without momentum and with an epsilon far above every gradient, AdamW's step is rate / epsilon times the gradient.
    plain_descent = {"learner__betas": (0.0, 0.0), "learner__epsilon": 100.0, "learner__learning_rate": 100.0}

    def step(**changes: Any) -> tuple[float, dict[str, float]]:
        found = learner(folder, **plain_descent, **changes)
        start = weights(found)
        metrics = found.update(BATCHES[0], alone)
        return sum(
            (after - start[n]).double().square().sum().item() for n, after in weights(found).items()
        ) ** 0.5, metrics

    length, free = step()
    norm = free["gradient_norm"]
    assert free["clipped"] == 0
    assert length == pytest.approx(norm, rel=0.02)
    length, clipped = step(learner__gradient_clip=norm / 2)
    assert clipped["clipped"] == 1
    assert clipped["gradient_norm"] == pytest.approx(norm), "the norm before clipping is reported"
    assert length == pytest.approx(norm / 2, rel=0.02)


def test_metrics_of_a_batch_by_hand(folder: Path) -> None:
    found = learner(folder)
    metrics = found.update(BATCHES[0], alone)
    candidates = [candidate for one in BATCHES[0] for candidate in one.candidates]
    tokens = sum(len(candidate.token_ids) for candidate in candidates)
    assert metrics["pairs"] == 12
    assert metrics["batch_groups"] == 4
    assert metrics["batch_completions"] == 12
    assert metrics["length_mean"] == pytest.approx(tokens / 12)
    assert metrics["entropy"] == pytest.approx(1.0), "the log-probabilities of these candidates are all -1"
    assert metrics["truncated_share"] == 0
    assert metrics["accuracy"] == 0, "before the first step every margin is exactly 0"
    assert metrics["learner_busy_seconds"] > 0


def separate(found: Any, one: Group, k: int) -> float:
    prompt, completion = one.prompt_ids.tolist(), one.candidates[k].token_ids.tolist()
    logprobs = plain(found, (*prompt, *completion))[len(prompt) - 1 : -1]
    return float(logprobs.gather(-1, torch.tensor(completion)[:, None]).sum())


def test_metrics_after_a_step_are_those_of_plain_forward_passes(folder: Path) -> None:
    found = learner(folder)
    found.update(BATCHES[0], alone)
    batch, pairs = BATCHES[1], ((0, 1), (0, 2), (1, 2))
    current = [[separate(found.policy.model, one, k) for k in range(3)] for one in batch]
    reference = [[separate(found.policy.reference, one, k) for k in range(3)] for one in batch]
    ratio = np.array(current) - np.array(reference)
    margins = np.array([[ratio[g, i] - ratio[g, j] for i, j in pairs] for g in range(4)])
    metrics = found.update(batch, alone)
    expected = {
        "margin": 0.1 * margins.mean(),
        "accuracy": (margins > 0).mean(),
        "loss": np.logaddexp(0, -0.1 * margins).mean(),
        "chosen_logprob": np.mean([[row[i] for i, _ in pairs] for row in current]),
        "rejected_logprob": np.mean([[row[j] for _, j in pairs] for row in current]),
        "kl": ratio.mean(),
        "kl_k3": (np.expm1(-ratio) + ratio).mean(),
    }
    assert {key: metrics[key] for key in expected} == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_training_makes_the_preferred_more_likely(folder: Path) -> None:
    found = learner(folder)
    metrics: dict[str, float] = {}
    for _ in range(4):
        metrics = found.update(BATCHES[0], alone)
    assert metrics["margin"] > 0
    assert metrics["accuracy"] > 0.9
    assert metrics["loss"] < np.log(2)
