"""The schedule of a next run follows from the gradient norms of a finished one."""

import json
from pathlib import Path

import pytest
import yaml

from actors.config import LearnerConfig
from workflows.refined_schedule import main


def run_directory(folder: Path, norms: list[float]) -> Path:
    rows = [{"kind": "step", "version": i, "gradient_norm": norm} for i, norm in enumerate(norms, start=1)]
    rows.append({"kind": "evaluation", "version": len(norms)})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def test_equal_norms_give_linear_decay_that_a_learner_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run_directory(tmp_path, [2.0] * 5))]) == 0
    learner = LearnerConfig(**yaml.safe_load(capsys.readouterr().out)["learner"], learning_rate=1.0)
    assert [learner.rate_at(step, 5) for step in range(6)][::5] == [1.0, 0.0]
    assert learner.curve == (1.0, 0.75, 0.5, 0.25, 0.0)


def test_options_change_the_curve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_directory(tmp_path, [8.0, 1.0, 6.0, 2.0, 4.0, 3.0, 3.0, 2.0, 1.0, 1.0] * 2)
    curves = set()
    for options in ([], ["--smoothing", "0.3"], ["--exponent", "1"]):
        assert main([str(folder), *options]) == 0
        curves.add(capsys.readouterr().out)
    assert len(curves) == 3


@pytest.mark.parametrize(("norms", "message"), [([0.0, 1.0], "positive"), ([], "two steps or more"), (None, "no run")])
def test_a_run_without_gradient_norms_is_refused(
    tmp_path: Path, norms: list[float] | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if norms is not None:
        run_directory(tmp_path, norms)
    assert main([str(tmp_path)]) == 1
    assert message in capsys.readouterr().err
