"""An evaluation on answers made by hand: what its figures are, what is written, and what is refused at once."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from actors.records import Group
from algorithms.intervals import win_rate_interval
from algorithms.preference import FloatArray
from tests.examples import candidate, config, group, tree
from workflows.evaluate import figures
from workflows.evaluate.__main__ import configurations, main, pairs, parser
from workflows.evaluate.figures import Judged, summarise
from workflows.evaluate.policies import (
    EvaluationError,
    Named,
    checkpoint_policies,
    contestants,
    export_checkpoints,
    parse_policy,
    settings,
)
from workflows.evaluate.report import gap, write_report
from workflows.run_directory import environment

Judge = Callable[[str, str], float]


def longer(first: str, second: str) -> float:
    return 0.5 if len(first) == len(second) else float(len(first) > len(second))


def shorter(first: str, second: str) -> float:
    return longer(second, first)


def rock_paper_scissors(first: str, second: str) -> float:
    return {0: 0.5, 1: 1.0, 2: 0.0}[("rps".index(first[0]) - "rps".index(second[0])) % 3]


def answered(texts: dict[str, Sequence[Sequence[str]]], judge: Judge) -> list[Group]:
    """Judged groups; `texts` has one list of samples a prompt for each policy."""
    groups = []
    for i in range(len(next(iter(texts.values())))):
        written = [(name, text) for name, prompts in texts.items() for text in prompts[i]]
        matrix: FloatArray = np.array([[judge(a, b) for _, b in written] for _, a in written])
        candidates = tuple(replace(candidate(list(text.encode()), text=text), policy=name) for name, text in written)
        groups.append(replace(group(i, [1], []), candidates=candidates, preference=matrix))
    return groups


def judged(texts: dict[str, Sequence[Sequence[str]]], proxy: Judge, gold: Judge | None = None) -> Judged:
    golden = answered(texts, gold) if gold else None
    return Judged(names=tuple(texts), proxy=answered(texts, proxy), gold=golden)


LENGTHS = np.random.default_rng(0).integers(3, 12, size=(12, 2, 4))
TEXTS: dict[str, Sequence[Sequence[str]]] = {
    name: [["x" * (int(length) + extra) for length in prompt[place]] for prompt in LENGTHS]
    for place, (name, extra) in enumerate({"start": 0, "long": 3}.items())
}


def test_win_rate_is_the_mean_over_meetings_with_its_paired_interval() -> None:
    found = summarise(judged(TEXTS, longer, shorter), {}, elo=True, seed=3)
    per_prompt = [
        np.mean([longer(a, b) for a in mine for b in theirs])
        for mine, theirs in zip(TEXTS["long"], TEXTS["start"], strict=True)
    ]
    expected = win_rate_interval(per_prompt, seed=3)
    row = found["policies"]["long"]
    assert row["proxy_win_rate"]["mean"] == pytest.approx(expected.mean)
    assert (row["proxy_win_rate"]["low"], row["proxy_win_rate"]["high"]) == pytest.approx((expected.low, expected.high))
    assert row["gold_win_rate"]["mean"] == pytest.approx(1 - expected.mean)
    ties = [longer(a, b) == 0.5 for mine, theirs in zip(TEXTS["long"], TEXTS["start"], strict=True)
            for a in mine for b in theirs]  # fmt: skip
    assert row["ties"] == pytest.approx(np.mean(ties))
    assert row["tokens"] == pytest.approx(np.mean([len(text) for texts in TEXTS["long"] for text in texts]))
    assert found["elo"]["start"] == 0.0
    assert found["elo"]["long"] > 0.0
    assert "elo" not in summarise(judged(TEXTS, longer), {}, elo=False, seed=3)


def test_a_judge_of_length_is_seen_through_at_equal_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "RESAMPLES", 20)
    generator = np.random.default_rng(1)
    short = [["x" * int(n) for n in row] for row in generator.integers(3, 30, size=(60, 4))]
    long = [["x" * int(n) for n in row] for row in generator.integers(8, 35, size=(60, 4))]
    row = summarise(judged({"start": short, "long": long}, longer), {}, elo=False, seed=0)["policies"]["long"]
    assert row["proxy_win_rate"]["low"] > 0.55
    assert row["length_controlled"]["low"] < 0.5 < row["length_controlled"]["high"]
    assert gap(row) == "better; not shown at equal length"


def test_best_of_n_follows_the_proxy_and_turns_for_the_gold() -> None:
    """The longest of all four answers: the proxy's best and the gold's worst; of one, the mean."""
    found = summarise(judged(TEXTS, longer, shorter), {}, elo=False, seed=0)["policies"]["long"]
    curve = found["best_of_n"]
    assert [point["n"] for point in curve] == [1, 2, 4]
    assert curve[0]["proxy"]["mean"] == pytest.approx(found["proxy_win_rate"]["mean"])
    best = [
        np.mean([longer(max(mine, key=len), other) for other in theirs])
        for mine, theirs in zip(TEXTS["long"], TEXTS["start"], strict=True)
    ]
    assert curve[-1]["proxy"]["mean"] == pytest.approx(np.mean(best))
    assert [point["gold"]["mean"] for point in curve] == pytest.approx([1 - p["proxy"]["mean"] for p in curve])
    assert curve[-1]["proxy"]["mean"] > curve[0]["proxy"]["mean"]


def test_answers_of_the_first_policy_are_not_their_own_opponents() -> None:
    """All equal but for luck: the best of two candidates meets the other two, so that one is even on average."""
    found = summarise(judged(TEXTS, longer), {}, elo=False, seed=0)["policies"]["start"]
    halves = [np.mean([longer(a, b) for a in texts[:2] for b in texts[2:]]) for texts in TEXTS["start"]]
    assert [point["n"] for point in found["best_of_n"]] == [1, 2]
    assert found["best_of_n"][0]["proxy"]["mean"] == pytest.approx(np.mean(halves))
    assert "proxy_win_rate" not in found


def test_three_policies_in_a_circle_are_all_exploitable() -> None:
    texts: dict[str, Sequence[Sequence[str]]] = {name: [[name], [name]] for name in ("rock", "paper", "scissors")}
    found = summarise(judged(texts, rock_paper_scissors), {}, elo=True, seed=0)
    assert list(found["round_robin"]["equilibrium"].values()) == pytest.approx([1 / 3] * 3, abs=1e-6)
    assert list(found["round_robin"]["exploitability"].values()) == pytest.approx([0.5] * 3)
    assert list(found["elo"].values()) == pytest.approx([0.0] * 3, abs=1e-6)
    assert found["policies"]["paper"]["length_controlled"] is None


def test_every_pair_is_written_once_with_what_each_panel_said(tmp_path: Path) -> None:
    table = pairs(judged(TEXTS, longer, shorter))
    assert table.num_rows == 12 * (8 * 7 // 2)
    pq.write_table(table, tmp_path / "pairs.parquet")
    for row in pq.read_table(tmp_path / "pairs.parquet").to_pylist()[::7]:
        assert row["proxy"] == longer(row["first"], row["second"]) == 1 - row["gold"]
        assert row["first"] == TEXTS[row["first_policy"]][row["index"]][row["first_sample"]]
        assert row["second"] == TEXTS[row["second_policy"]][row["index"]][row["second_sample"]]
        assert row["prompt"] == "question"


def summary_of(found: dict[str, Any], **changes: Any) -> dict[str, Any]:
    arguments = {"samples": 4, "prompts": "prompts.jsonl"}
    about = {"models": {"start": "a", "long": "b"}, "versions_of_run": {}, "panel": ["longer"], "gold": ["shorter"]}
    sampling = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_new_tokens": 16}
    return {"arguments": arguments, **about, "sampling": sampling, **environment(), **found, **changes}


def test_the_report_has_every_figure_and_runs_nothing(tmp_path: Path) -> None:
    texts = {**TEXTS, "start": [["<script>alert(1)</script>", *rest] for _, *rest in TEXTS["start"]]}
    both = judged(texts, longer, shorter)
    summary = summary_of(summarise(both, {}, elo=True, seed=0))
    page = write_report(tmp_path, summary, both).read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert page.count("<svg") == 2
    rate = summary["policies"]["long"]["proxy_win_rate"]
    assert f"{rate['mean']:.3f}<br><small>{rate['low']:.3f} to {rate['high']:.3f}</small>" in page
    assert "Everybody against everybody" in page
    assert "How far they went for it" not in page
    again = json.loads(json.dumps(summary))
    assert write_report(tmp_path, again, both).read_text() == page


@pytest.mark.parametrize("elo", [False, True])
@pytest.mark.parametrize("gold", [None, shorter])
def test_the_report_is_written_with_and_without_the_extras(tmp_path: Path, elo: bool, gold: Any) -> None:
    found = judged(TEXTS, longer, gold)
    summary = summary_of(summarise(found, {}, elo=elo, seed=0), gold=["shorter"] if gold else [])
    page = write_report(tmp_path, summary, found).read_text()
    assert ("Elo" in page) is elo
    assert "Everybody against everybody" in page


def test_words_about_a_win_rate() -> None:
    high, low, wide = {"low": 0.6, "high": 0.8}, {"low": 0.2, "high": 0.4}, {"low": 0.4, "high": 0.6}
    words = {"gold agrees": high, "gold says worse": low, "gold is open": wide}
    for said, gold in words.items():
        assert gap({"proxy_win_rate": high, "gold_win_rate": gold, "length_controlled": high}) == f"better; {said}"
    assert gap({"proxy_win_rate": low}) == "worse"
    assert gap({"proxy_win_rate": wide, "length_controlled": wide}) == "not told apart"


# Policies and settings


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with a final policy and nothing else."""
    folder = tmp_path / "first"
    (folder / "policy").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(tree(name="named", rollout__temperature=0.7)))
    return folder


def test_a_policy_is_a_run_a_folder_or_a_name(run: Path, tmp_path: Path) -> None:
    assert parse_policy(str(run)) == Named(name="named", model=str((run / "policy").resolve()))
    assert parse_policy(f"mine={run}").name == "mine"
    assert parse_policy("smollm2-135m-instruct") == Named(name="smollm2-135m-instruct", model="smollm2-135m-instruct")
    assert parse_policy("organisation/model") == Named(name="model", model="organisation/model")
    (run / "policy").rmdir()
    with pytest.raises(EvaluationError, match="has no policy/ yet"):
        parse_policy(str(run))


def test_settings_come_from_the_file_then_the_run_and_are_overridden(run: Path, tmp_path: Path) -> None:
    fixed = {"name": "evaluate", "model": {"name": "start"}, "data": {"prompts": "p.jsonl", "heldout": "p.jsonl"}}
    panel = ["tests.scripted_judges:longer"]
    assert settings(None, [str(run)], [], fixed, []).rollout.temperature == 0.7
    assert settings(None, [f"x={run}"], [], fixed, panel).scoring.panel == tuple(panel)
    assert settings(None, ["model"], [], fixed, panel).rollout.temperature == 1.0
    assert settings(None, [str(run)], ["rollout.temperature=0.2"], fixed, []).rollout.temperature == 0.2
    other = tmp_path / "other.yaml"
    other.write_text("rollout: {temperature: 0.4}\nscoring: {panel: [tests.scripted_judges:longer]}\n")
    assert settings(str(other), [str(run)], [], fixed, []).rollout.temperature == 0.4
    assert settings(str(other), [str(run)], [], fixed, []).model.name == "start"
    rewards = ["scoring.panel=[{reward: 'tests.scripted_rewards:letters'}]", "scoring.combine={rule: mean}"]
    assert settings(None, [], rewards, fixed, []).scoring.combine.rule == "mean"
    assert settings(None, [], rewards, fixed, panel).scoring.combine.rule == "majority"


def test_gold_scorers_are_those_of_the_command_or_else_of_the_settings(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("scoring: {panel: [tests.scripted_judges:longer], gold: [tests.scripted_judges:confident]}\n")
    command = ["--policy", "a", "--against", "b", "--prompts", "p.jsonl", "--output", "o", "--config", str(path)]

    def gold(*options: str) -> tuple[Any, ...] | None:
        found = configurations(parser().parse_args([*command, *options]), Named(name="b", model="b"))[1]
        return found.scoring.panel if found else None

    assert gold() == ("tests.scripted_judges:confident",)
    assert gold("--gold", "tests.scripted_judges:more_letters") == ("tests.scripted_judges:more_letters",)
    assert gold("--set", "scoring.gold=[]") is None


def test_answers_are_told_apart_by_model_and_number_format(run: Path, tmp_path: Path) -> None:
    def prefix(model: str, **changes: Any) -> str:
        return contestants([Named(name="a", model=model)], config(**changes), tmp_path)[0].prefix

    assert prefix("one") == prefix("one")
    assert len({prefix("one"), prefix("two"), prefix("one", model__dtype="bfloat16")}) == 3
    before = prefix(str(run / "policy"))
    (run / "policy" / "weights").write_text("changed")
    assert prefix(str(run / "policy")) != before


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("--against tiny", "nothing to evaluate"),
        ("--policy tiny", "name what the policies are compared with"),
        ("--policy tiny --against tiny --scorers tests.scripted_judges:longer", "several policies are called tiny"),
        ("--policy x=tiny --against tiny", "nobody judges"),
        ("--policy x=tiny --against tiny --scorers tests.scripted_judges:taller", "no function 'taller'"),
        (
            "--policy x=tiny --against tiny --scorers tests.scripted_judges:longer --gold tests.scripted_judges:taller",
            "no function 'taller'",
        ),
        ("--policy x=tiny --against tiny --samples 0", "--samples = 0; at least 1"),
        ("--policy x=tiny --against tiny --limit 0", "--limit = 0; at least 1"),
        ("--policy x=tiny --against tiny --likelihood-prompts -1", "0 leaves likelihoods out"),
        ("--policy x=tiny --against tiny --config nowhere.yaml", "no configuration file nowhere.yaml"),
        ("--policy x=tiny --against tiny --set rollout.temprature=1 --scorers a:b", "did you mean rollout.temperature"),
        ("--policy x=./nowhere --against tiny --scorers tests.scripted_judges:longer", "nowhere"),
        ("--checkpoints nowhere --against tiny", "is no run directory"),
        ("--checkpoints tiny --against tiny", "is no run directory"),
    ],
)
def test_bad_input_is_one_message_before_anything_starts(
    command: str,
    message: str,
    tiny_model: Path,
    prompt_files: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "tiny").symlink_to(tiny_model)
    monkeypatch.chdir(tmp_path)
    small = ["--set", "model.context=128", "--set", "rollout.max_new_tokens=8"]
    command_line = [*command.split(), *small, "--prompts", prompt_files["heldout"], "--output", "out"]
    assert main(command_line) == 1
    shown = " ".join(capsys.readouterr().err.split())
    assert message in shown
    assert "Traceback" not in shown
    assert not (tmp_path / "out" / "answers").exists()


def test_what_is_missing_from_prompts_is_said(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "--policy",
        f"x={tiny_model}",
        "--against",
        f"y={tiny_model}",
        "--scorers",
        "tests.scripted_judges:longer",
    ]
    assert main([*command, "--prompts", str(tmp_path / "none.jsonl"), "--output", str(tmp_path / "out")]) == 1
    assert "none.jsonl" in capsys.readouterr().err.replace("\n", "")
    (tmp_path / "out").write_text("a file")
    assert main([*command, "--prompts", "p.jsonl", "--output", str(tmp_path / "out")]) == 1
    assert "is a file; give a folder" in " ".join(capsys.readouterr().err.split())


def test_options_have_help() -> None:
    assert all(action.help for action in parser()._actions if action.dest not in ("seed", "help"))


# Checkpoints


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_checkpoint_becomes_the_model_that_was_trained(method: str, tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    from actors.policy import Policy

    run = tmp_path / "run"
    options = {"model__name": str(tiny_model), "learner__method": method, "name": "trained"}
    policy = Policy(config(**options), str(tiny_model), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    moved = {n: p.detach() + 0.05 * torch.randn(p.shape, generator=generator) for n, p in policy.parameters().items()}
    ahead = {name: torch.zeros_like(value) for name, value in moved.items()}
    states = {4: {"parameters": moved, "aside": None}, 5: {"parameters": ahead, "aside": {"parameters": moved}}}
    for version, state in states.items():
        folder = run / "checkpoints" / f"version-{version:08d}"
        folder.mkdir(parents=True)
        torch.save(state, folder / "learner.pt")
    (run / "config.yaml").write_text(yaml.safe_dump(tree(**options)))
    start, found = checkpoint_policies(run, tmp_path / "models")
    assert not (tmp_path / "models").exists()
    export_checkpoints(run, [start, *found])
    assert (start.name, start.model) == ("start", str(tiny_model))
    assert [(policy.name, policy.version) for policy in found] == [("trained@4", 4), ("trained@5", 5)]
    with torch.no_grad():
        for name, parameter in policy.parameters().items():
            parameter.copy_(moved[name])
        ids = torch.tensor([[5, 9, 200, 31]])
        expected = policy.model(ids).logits
        for checkpoint in found:
            model = AutoModelForCausalLM.from_pretrained(checkpoint.model, dtype=torch.float32)
            torch.testing.assert_close(model(ids).logits, expected, atol=1e-4, rtol=1e-4)
    export_checkpoints(run, found)


def test_a_run_without_checkpoints_says_how_to_keep_them(run: Path, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"learner\.checkpoint_every"):
        checkpoint_policies(run, tmp_path / "models")
