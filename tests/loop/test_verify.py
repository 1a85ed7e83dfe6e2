"""The verification plays a game with real engines and a real learner, and does not play what it has played."""

import json
from pathlib import Path

import pytest

from workflows.verify.__main__ import main


@pytest.mark.slow
def test_the_loop_comes_near_the_equilibrium(cluster: str, tmp_path: Path) -> None:
    command = ["--game", "bradley_terry", "--contexts", "1", "--seeds", "0", "--steps", "40", "--batch", "8"]
    command += ["--objective", "online_ipo", "--labels", "sampled", "--output", str(tmp_path)]
    assert main(command) == 0
    found = json.loads((tmp_path / "summary.json").read_text())["objectives"]["online_ipo"]
    assert found["updates"] == 40
    assert found["ratio"]["mean"] < 0.5
    assert found["delay"]["occurred"]["opponent"]["max"] == 0
    events = (tmp_path / "runs" / "online_ipo-0" / "events.jsonl").read_text()
    (tmp_path / "report.html").unlink()
    assert main(command) == 0
    assert (tmp_path / "runs" / "online_ipo-0" / "events.jsonl").read_text() == events
    assert (tmp_path / "report.html").exists()
