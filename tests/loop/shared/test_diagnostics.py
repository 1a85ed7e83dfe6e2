"""A measurement beside a real run's directory, by a Ray actor that the driver never waits for."""

import json
import shutil
from pathlib import Path

import pytest

from actors.config import DiagnosticsConfig
from tests.loop.support import Outcome, Runs, read_lines
from workflows.diagnostics import MEASURED, Diagnostics
from workflows.training import RunFailed

pytestmark = pytest.mark.slow

SECONDS = 600.0
"""For a measurement: it has only what is left of the processor, which the tests beside it may take for minutes."""


@pytest.mark.timeout(2 * SECONDS + 300)
def test_a_checkpoint_is_measured_while_the_driver_goes_on(synchronous: Outcome, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(synchronous.succeeded().path, run)
    said: list[str] = []
    config = synchronous.config.model_copy(update={"diagnostics": DiagnosticsConfig(every=4)})
    diagnostics = Diagnostics(config, run, said.append)
    latest = synchronous.metrics("step")[-1]
    for _ in range(3):
        diagnostics({"version": 6, "latest": latest})
    assert not (run / "diagnostics.jsonl").exists(), "the driver waited"
    diagnostics.close(SECONDS)
    (row,) = read_lines(run / "diagnostics.jsonl")
    assert said == []
    assert row["version"] == 6
    assert row.keys() == {"version", *MEASURED}
    assert row["kl"] > 0.0
    # The policy hardly moved from its random start, whose next token is nearly uniform over 260.
    assert row["entropy"] == pytest.approx(latest["entropy"], rel=0.1)
    (run / "diagnostics.jsonl").write_text(json.dumps({"version": 2}) + "\n")
    cut = Diagnostics(config, run, said.append)
    cut({"version": 6, "latest": latest})
    cut.close(0.0)
    assert said == ["version 6 was not measured: that had not ended 0 s after the run"]
    said.clear()
    shutil.rmtree(run / "experience")
    broken = Diagnostics(config, run, said.append)
    broken({"version": 6, "latest": latest})
    broken.close(SECONDS)
    (sentence,) = said
    assert sentence.startswith("version 6 could not be measured: FileNotFoundError: ")


def test_a_rule_ends_a_run_and_its_report_says_which_and_why(runs: Runs) -> None:
    """The policy begins nearly uniform, so that whatever it learns costs entropy."""
    stopped = runs.start(
        "stopped",
        loop={"steps": 200},
        learner={"learning_rate": 1e-2},
        diagnostics={"stop": ["entropy_collapse"], "entropy_share": 1.0},
    ).result()
    assert isinstance(stopped.error, RunFailed)
    (alarm,) = [row for row in read_lines(stopped.path / "alarms.jsonl") if row["stop"]]
    assert 6 <= alarm["version"] < 200
    assert alarm["reason"] in str(stopped.error)
    assert stopped.summary["failure"].startswith(f"version {alarm['version']}: {alarm['reason']}")
    ledger = stopped.summary["ledger"]
    assert ledger["admitted"] == ledger["trained"] + ledger["rejected"] + ledger["in_flight"]
    page = (stopped.path / "report.html").read_text()
    assert f"Version {alarm['version']}, entropy_collapse, which ended the run: {alarm['reason']}." in page
