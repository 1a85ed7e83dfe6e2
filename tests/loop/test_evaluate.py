"""An evaluation with real engines: a policy that is the start is even with it in every respect, and is asked once."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from tests.examples import tree
from workflows.evaluate.__main__ import main
from workflows.evaluate.best_of_n import main as best_of_n
from workflows.preference_model import labelling
from workflows.preference_model.labelling import read_answers
from workflows.sample import main as sample

pytestmark = pytest.mark.slow


def test_the_start_against_itself(
    cluster: str, tiny_model: Path, prompt_files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "evaluation"
    settings = {
        "model.dtype": "float32",
        "model.context": 128,
        "rollout.max_new_tokens": 8,
        "rollout.kv_cache_gib": 0.1,
        "scoring.cpus": 0,
        "scoring.truncation_penalty": 0,
    }
    command = ["--policy", f"same={tiny_model}", "--against", f"start={tiny_model}", "--samples", "2", "--elo"]
    command += ["--prompts", prompt_files["heldout"], "--likelihood-prompts", "4", "--output", str(output)]
    command += [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    judges = ["--scorers", "tests.judges:ascii_share", "--gold", "tests.scripted_judges:longer"]
    assert main([*command, *judges]) == 0
    found = json.loads((output / "evaluation.json").read_text())
    same = found["policies"]["same"]
    for rate in ("proxy_win_rate", "gold_win_rate"):
        assert same[rate]["mean"] == 0.5
    assert found["elo"]["same"] == pytest.approx(0.0, abs=1e-6)
    for name in ("kl", "k1", "k2", "k3"):
        assert same["likelihood"][name]["mean"] == pytest.approx(0.0, abs=1e-9)
    # The engine's log-probabilities and those that the KL is computed from are of one distribution.
    assert same["likelihood"]["engine_mismatch"] < 1e-4
    assert found["round_robin"]["exploitability"] == {"start": 0.0, "same": 0.0}
    table = pq.read_table(output / "pairs.parquet")
    assert table.num_rows == 12 * 6
    assert {"proxy", "gold"} <= set(table.column_names)
    assert (output / "report.html").read_text().count("<svg") == 2
    capsys.readouterr()
    # Rewards get their common scale from the answers of the policy that all are measured against.
    rewards = "[{reward: 'tests.scripted_rewards:length'}, {reward: 'tests.scripted_rewards:letters'}]"
    assert main([*command, "--set", f"scoring.panel={rewards}", "--set", "scoring.combine=worst_case"]) == 0
    assert capsys.readouterr().out.count("answers of an earlier round") == 2
    again = json.loads((output / "evaluation.json").read_text())["policies"]["same"]
    assert again["likelihood"]["kl"] == same["likelihood"]["kl"]
    assert again["proxy_win_rate"]["mean"] == 0.5
    assert "gold_win_rate" not in again


def test_answers_are_sampled_labelled_and_chosen_among(
    cluster: str, tiny_model: Path, prompt_files: dict[str, str], tmp_path: Path
) -> None:
    pool, pairs = tmp_path / "pool.parquet", tmp_path / "pairs.jsonl"
    settings = tree(model__name=str(tiny_model), rollout__kv_cache_gib=0.1, data__prompts=prompt_files["heldout"])
    (tmp_path / "sample.yaml").write_text(yaml.safe_dump(settings))
    assert sample(["--config", str(tmp_path / "sample.yaml"), "--samples", "6", "--output", str(pool)]) == 0
    groups = read_answers(pool)
    assert [len(group.candidates) for group in groups] == [6] * 12
    judge = "tests.judges:ascii_share"
    assert labelling.main([str(pool), "--judges", judge, "--pairs", "3", "--output", str(pairs)]) == 0
    assert len(pairs.read_text().splitlines()) == 36
    reward = "tests.scripted_rewards:letters"
    command = [str(pool), "--members", reward, "--gold", judge, "--opponents", "2", "--output", str(tmp_path / "out")]
    assert best_of_n(command) == 0
    curve = json.loads((tmp_path / "out" / "best_of_n.json").read_text())["curves"]["one member"]["curve"]
    # The reward is the judge's own, so that more choice is better.
    assert curve[-1]["gold"]["mean"] > curve[0]["gold"]["mean"]
