"""Rules on a run that is told status by status, what an earlier life left, and a measurement from a checkpoint."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from actors.config import AlignConfig
from actors.policy import Policy
from actors.records import SCHEMA, Group, to_arrow
from algorithms.stop_rules import EntropyCollapse
from tests.examples import candidate, config, group, ranking
from workflows.diagnostics import MEASURED, PER_TOKEN, Diagnostics, _of_pairs, _trained_on, measure_checkpoint, rules_of
from workflows.evaluate.likelihood import measure

COLLAPSE = [2.0, 2.0, 2.0, 1.8, 1.2, 0.6, 0.5, 0.4, 0.3]
"""Entropies; the mean of three is below 0.4 of the first three's from version 7 on."""


def told(settings: AlignConfig, run: Path, entropies: Sequence[float], first: int = 1) -> tuple[list[str], list[str]]:
    """What the person who watches is told, and the reasons to end the run."""
    said: list[str] = []
    diagnostics = Diagnostics(settings, run, said.append)
    reasons = [
        diagnostics({"version": version, "latest": {"entropy": entropy, "chosen_logprob": -10.0}})
        for version, entropy in enumerate(entropies, start=first)
    ]
    diagnostics.close(0.0)
    return said, [reason for reason in reasons if reason]


def alarms(run: Path) -> list[dict[str, Any]]:
    path = run / "alarms.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_broken_rule_is_told_once_and_written_down(tmp_path: Path) -> None:
    said, reasons = told(config(), tmp_path, COLLAPSE)
    assert (len(said), reasons) == (1, [])
    assert said[0].startswith("version 7: entropy collapsed")
    assert [(row["version"], row["rule"], row["stop"]) for row in alarms(tmp_path)] == [(7, "entropy_collapse", False)]


def test_a_rule_that_is_not_asked_for_is_silent(tmp_path: Path) -> None:
    assert told(config(diagnostics__warn=["chosen_falls"]), tmp_path, COLLAPSE) == ([], [])
    assert not alarms(tmp_path)


def test_a_rule_may_end_the_run(tmp_path: Path) -> None:
    (said,), (reason,) = told(config(diagnostics__stop=["entropy_collapse"]), tmp_path, COLLAPSE)
    assert reason.startswith(said)
    assert "The rule entropy_collapse (diagnostics.stop) ends the run" in reason
    assert alarms(tmp_path)[0]["stop"] is True


def test_options_reach_their_rules(tmp_path: Path) -> None:
    assert rules_of(config(diagnostics__entropy_share=0.7).diagnostics)["entropy_collapse"] == EntropyCollapse(
        share=0.7
    )
    assert told(config(diagnostics__entropy_share=0.1), tmp_path, COLLAPSE) == ([], [])
    usual, other = (rules_of(settings.diagnostics) for settings in (
        config(), config(diagnostics__chosen_limit=5.0, diagnostics__reversal_tolerance=0.5)))  # fmt: skip
    assert usual["chosen_falls"] != other["chosen_falls"]
    assert usual["reversal"] != other["reversal"]


def test_a_resumed_run_goes_on_where_it_was_and_not_from_what_it_will_measure_again(tmp_path: Path) -> None:
    """Versions 1 to 7 were measured, the run resumes from 3: its figures of 4 to 7 are replaced one by one."""
    lines = [{"kind": "step", "version": v, "entropy": e} for v, e in enumerate(COLLAPSE[:7], start=1)]
    lines.append({"kind": "evaluation", "version": 7, "entropy": 99.0})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "st')
    assert told(config(), tmp_path, [1.8, 1.7, 1.8, 1.7], first=4) == ([], [])
    assert told(config(), tmp_path, [1.8, 0.2, 0.2, 0.2], first=4)[0][0].startswith("version 6")


@pytest.mark.parametrize("removed", [False, True], ids=["kept", "removed meanwhile"])
def test_a_measurement_is_that_of_the_checkpoint_on_what_it_was_trained_on(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removed: bool
) -> None:
    settings = config(model__name=str(tiny_model), learner__method="full", diagnostics__groups=2)
    policy = Policy(settings, str(tiny_model), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    moved = {n: p.detach() + 0.02 * torch.randn(p.shape, generator=generator) for n, p in policy.parameters().items()}
    checkpoint = tmp_path / "checkpoints" / "version-00000003"
    checkpoint.mkdir(parents=True)
    torch.save({"parameters": moved, "aside": None}, checkpoint / "learner.pt")
    answers = [[10, 11, 12], [13, 14], [15]]
    groups = [group(i, [5, 6], answers[:2]) for i in range(3)]
    # A reference's answer says nothing of the policy.
    other = replace(candidate(answers[2]), policy="reference")
    mixed = [replace(g, candidates=(*g.candidates, other), preference=ranking(3)) for g in groups]
    (tmp_path / "experience").mkdir()
    table = pa.Table.from_batches([to_arrow(mixed, 2)], SCHEMA)
    pq.write_table(table, tmp_path / "experience" / "version-00000002.parquet")
    if removed:
        # As the loop does, which keeps few, while a measurement that has begun waits for a processor.
        def trained_on(*given: Any) -> list[Group]:
            shutil.rmtree(checkpoint)
            return _trained_on(*given)

        monkeypatch.setattr("workflows.diagnostics._trained_on", trained_on)
    found = measure_checkpoint(settings, str(tmp_path), 3)
    policy.model.load_state_dict(moved, strict=False)
    policy.save(tmp_path / "expected")
    expected = measure(settings, str(tmp_path / "expected"), str(tiny_model), groups[:2], "current")
    rows = expected.likelihoods
    assert found.keys() == set(MEASURED)
    for name in PER_TOKEN:
        assert found[name] == pytest.approx(getattr(rows, name).sum() / 10)
    assert found["kl"] > 0.0
    # In each group the first answer is preferred to the second.
    assert found["ranking_accuracy"] == (rows.logprob[[0, 2]] >= rows.logprob[[1, 3]]).mean()
    chosen, rejected, inner = expected.products.T
    assert found["entanglement_ratio"] == pytest.approx((inner / np.minimum(chosen, rejected)).mean())


def test_without_a_preference_nothing_is_said_of_pairs(tiny_model: Path, tmp_path: Path) -> None:
    settings = config(model__name=str(tiny_model))
    tied = [replace(group(0, [5, 6], [[10, 11], [12, 13]]), preference=np.full((2, 2), 0.5))]
    found = measure(settings, str(tiny_model), str(tiny_model), tied, "current")
    assert _of_pairs(tied, found) == {}
