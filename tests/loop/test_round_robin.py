"""A round robin with real engines: two policies with equal weights give equal answers, and those are kept."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests.examples import tree
from workflows.round_robin import main

pytestmark = pytest.mark.slow


def test_equal_policies_are_even(
    cluster: str, tiny_model: Path, prompt_files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "same"
    shutil.copytree(tiny_model, run / "policy")
    configuration = tree(name="same", model__name=str(tiny_model), rollout__kv_cache_gib=0.1, scoring__cpus=0)
    (run / "config.yaml").write_text(yaml.safe_dump(configuration))
    (run / "summary.json").write_text(json.dumps({"status": "finished", "ledger": {"trained": 0}, "wall_seconds": 0}))
    command = [str(run), "--prompts", prompt_files["heldout"], "--output", str(tmp_path / "round"), "--samples", "2"]
    assert main(command) == 0
    figures = json.loads((tmp_path / "round.json").read_text())
    assert figures["policies"] == ["start", "same"]
    assert figures["win_rates"]["same"]["start"]["mean"] == 0.5
    assert figures["tokens"]["same"] == figures["tokens"]["start"]
    capsys.readouterr()
    assert main(command) == 0
    assert capsys.readouterr().out.count("answers of an earlier round") == 2
    assert json.loads((tmp_path / "round.json").read_text())["win_rates"] == figures["win_rates"]
