"""Preference models through Ray Train: a known reward is found again, a killed run goes on, and reloading is exact."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file

from actors.preference_config import PreferenceModelConfig
from actors.reward_models import RewardModel, load_preference_model
from tests.loop.support import Runs, until
from workflows.preference_model.__main__ import train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Comparisons by a known reward: how many times a response has the letter a."""
    generator = random.Random(0)

    def text() -> str:
        return "".join(generator.choice("aaabcdefgh") for _ in range(12))

    rows = []
    for i in range(400):
        first, second = text(), text()
        while first.count("a") == second.count("a"):
            second = text()
        chosen, rejected = (first, second) if first.count("a") > second.count("a") else (second, first)
        rows.append(json.dumps({"prompt": f"question {i % 80}", "chosen": chosen, "rejected": rejected}))
    path = tmp_path_factory.mktemp("data") / "letters.jsonl"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def configured(tiny_model: Path, data: Path, folder: Path, name: str, **tree: Any) -> PreferenceModelConfig:
    training = {"method": "full", "epochs": 3, "batch": 16, "learning_rate": 3e-3, "checkpoint_every": 4, "workers": 2}
    base: dict[str, Any] = {
        "name": name,
        "directory": str(folder),
        # Relative, as a person would write it.
        "model": {"name": os.path.relpath(tiny_model), "dtype": "float32"},
        "data": {"train": str(data), "heldout_share": 0.2},
        "training": training | {"deadline": 300},
    }
    return PreferenceModelConfig.model_validate(base | tree)


def test_a_known_reward_is_found_again_by_every_member_and_a_killed_run_goes_on(
    cluster: str, tiny_model: Path, data: Path, tmp_path: Path
) -> None:
    whole = configured(tiny_model, data, tmp_path, "whole", members=2)
    summary = train(whole, cluster)
    for name in ("model-0", "model-1"):
        figures = summary["models"][name]
        assert figures["accuracy"]["n"] == 80
        assert figures["accuracy"]["share"] > 0.9
        assert "accuracy (ties" in (tmp_path / "whole" / name / "README.md").read_text()
        assert (tmp_path / "whole" / name / "reliability.png").exists()
    assert summary["ensemble"]["accuracy"]["share"] > 0.9
    first, again = (load_preference_model(str(tmp_path / "whole" / "model-0")) for _ in range(2))
    other = load_preference_model(str(tmp_path / "whole" / "model-1"))
    assert isinstance(first, RewardModel)
    assert isinstance(again, RewardModel)
    assert isinstance(other, RewardModel)
    texts, asked = ["aaaa", "bbbb", "abab"], [{"role": "user", "content": "question 1"}]
    scores = first.scores(asked, texts)
    assert scores[0] > scores[2] > scores[1]
    assert (scores == again.scores(asked, texts)).all()
    assert np.abs(scores - other.scores(asked, texts)).max() > 1e-3

    killed = configured(tiny_model, data, tmp_path, "killed", members=2)
    kill_within_the_second_member(killed, cluster, tmp_path)
    resumed = train(killed, cluster)
    assert resumed["models"] == summary["models"]
    for name in ("model-0", "model-1"):
        left, right = (load_file(tmp_path / run / name / "model.safetensors") for run in ("whole", "killed"))
        assert all((left[key] == right[key]).all() for key in left)
    lines = [json.loads(line) for line in (tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()]
    assert [(line["member"], line["step"]) for line in lines] == [(m, s + 1) for m in (0, 1) for s in range(60)]


def test_one_on_a_pretrained_model_is_the_scorer_of_a_following_run(
    cluster: str, data: Path, tmp_path: Path, runs: Runs
) -> None:
    few = tmp_path / "few.jsonl"
    few.write_text("".join(data.read_text().splitlines(keepends=True)[:48]))
    training = {"method": "head", "epochs": 4, "batch": 8, "learning_rate": 3e-3, "workers": 1, "deadline": 300}
    model = {"name": "smollm2-135m-instruct", "dtype": "float32"}
    train(configured(Path(), few, tmp_path, "pretrained", model=model, training=training), cluster)
    folder = tmp_path / "pretrained" / "model"
    judged = runs.run(runs.config("judged", scoring={"panel": [{"model": str(folder)}]}, loop={"steps": 2})).succeeded()
    scorer = load_preference_model(str(folder))
    trained = [group for _, group in judged.trained()]
    assert trained
    for group in trained:
        expected = scorer.matrix(group.messages, [candidate.text for candidate in group.candidates])
        assert group.preference == pytest.approx(expected, abs=1e-4)
        assert np.ptp(group.preference) > 0.01


def kill_within_the_second_member(config: PreferenceModelConfig, cluster: str, folder: Path) -> None:
    """Start the run as a person does, and kill it, which takes its workers along."""
    path, metrics = folder / "killed.yaml", folder / config.name / "metrics.jsonl"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = [sys.executable, "-m", "workflows.preference_model", "--config", str(path), "--address", cluster]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        until(lambda: metrics.exists() and '"member": 1, "step": 6' in metrics.read_text(), 400, "the second member")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
    reached = metrics.read_text().count("\n")
    assert reached < 120, "the run ended before it was killed"
