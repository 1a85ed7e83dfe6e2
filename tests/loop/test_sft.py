"""A supervised start by real Ray Train workers: what it says of its loss is what the model it leaves has."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from tests.actors.test_sft import textbook_loss
from tests.loop.support import read_lines
from workflows.sft import encode, load_conversations, main, split

pytestmark = pytest.mark.slow

PEOPLE = ("Ann", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hal", "Ida", "Jo")


def test_a_small_model_is_made_trained_and_left_whole(
    cluster: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Who is it? {name}"},
                {"role": "assistant", "content": f"It's {name}."},
            ]
        }
        for name in PEOPLE
    ]
    conversations = tmp_path / "conversations.jsonl"
    conversations.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tree = {
        "name": "start",
        "directory": str(tmp_path),
        "make": {"vocabulary": 300, "hidden": 32, "layers": 1, "feedforward": 64, "context": 64},
        "data": {"conversations": str(conversations), "heldout_share": 0.2},
        "steps": 12,
        "batch": 4,
        "learner": {"method": "full", "autocast": False, "learning_rate": 1e-2, "checkpoint_every": 5, "workers": 2},
    }
    file = tmp_path / "sft.yaml"
    file.write_text(yaml.safe_dump(tree), encoding="utf-8")
    assert main(["--config", str(file)]) == 0
    metrics = read_lines(tmp_path / "start" / "metrics.jsonl")
    assert [row["step"] for row in metrics] == list(range(1, 13))
    assert metrics[-1]["loss"] < 0.7 * metrics[0]["loss"]
    assert [row["step"] for row in metrics if "heldout_loss" in row] == [5, 10, 12]
    policy = tmp_path / "start" / "policy"
    model = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32)
    heldout = split(encode(str(policy), load_conversations(conversations)), 0.2)[1]
    summary = json.loads((tmp_path / "start" / "summary.json").read_text())
    assert len(heldout) == 2
    assert summary["heldout_loss"] == pytest.approx(textbook_loss(model, heldout).item(), abs=1e-4)
    assert main(["--config", str(file)]) == 1
    assert "choose another name" in capsys.readouterr().err
