"""A verification knows its game exactly: what it says of a run are identities of that game, not estimates."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actors.models import load_tokenizer, render_prompt
from actors.scorer import load_judge
from algorithms.games import FloatArray, average_policy, create, regularised_equilibrium
from algorithms.objective import OBJECTIVES, PairLogProbs, build_objective
from workflows.training import RunFailed
from workflows.verify.__main__ import main
from workflows.verify.game import Match, answer_name, context_name, prepare
from workflows.verify.measurement import curve, exact_policies, interval, stable_delay, step_size
from workflows.verify.report import write_report
from workflows.verify.runs import Outcome, read
from workflows.verify.settings import SETTINGS, configuration, options_on
from workflows.verify.summary import best_win_rate, half_gain, summarise

CONTEXTS, ACTIONS, BETA = 3, 5, 0.1


def make(folder: Path, **changes: Any) -> Match:
    options: dict[str, Any] = {"kind": "cyclic", "contexts": CONTEXTS, "actions": ACTIONS, "beta": BETA, "seed": 0}
    return prepare(folder, **options | changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("game")


@pytest.fixture(scope="module")
def match(folder: Path) -> Match:
    return make(folder)


# The game and its player


def test_contexts_and_answers_are_single_tokens(folder: Path, match: Match) -> None:
    tokenizer = load_tokenizer(str(folder / "model"))
    for place in range(CONTEXTS):
        assert render_prompt(tokenizer, [{"role": "user", "content": context_name(place)}]) == [1 + place]
    assert [tokenizer.decode([token]) for token in match.answers] == [answer_name(place) for place in range(ACTIONS)]


def test_the_judge_reads_the_matrix_of_the_context(folder: Path, match: Match) -> None:
    judge: Any = load_judge("workflows.verify.game:judge")
    preferred = judge(str(folder / "game.json"))
    for place, game in enumerate(match.games):
        for i in range(ACTIONS):
            for j in range(ACTIONS):
                asked = preferred(context_name(place), answer_name(i), answer_name(j))
                assert asked == pytest.approx(game.preference[i, j], abs=1e-12)
    assert not np.allclose(match.games[0].preference, match.games[1].preference)


def test_the_reference_is_the_models_own_start(folder: Path, match: Match) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    with torch.no_grad():
        logprobs = model(torch.arange(1, 1 + CONTEXTS)[:, None]).logits[:, -1].log_softmax(-1)
    # As a line of canaries.jsonl: all tokens, by their ids.
    rows = [{str(token): float(value) for token, value in enumerate(row)} for row in logprobs]
    np.testing.assert_allclose(match.log_policies(rows), [game.reference for game in match.games], atol=1e-6)
    del rows[0][str(match.answers[2])]
    with pytest.raises(ValueError, match="1 answers without one"):
        match.log_policies(rows)


def test_a_folder_holds_one_game(folder: Path, match: Match) -> None:
    again = make(folder)
    np.testing.assert_array_equal(again.games[2].reference, match.games[2].reference)
    with pytest.raises(ValueError, match=r"asked for was .*'seed': 1.*choose another --output"):
        make(folder, seed=1)


def test_seeds_give_other_games_and_players(tmp_path: Path, match: Match) -> None:
    other = make(tmp_path, seed=1)
    assert not np.allclose(other.games[0].preference, match.games[0].preference)
    assert not np.allclose(other.games[0].reference, match.games[0].reference)


def test_a_vocabulary_that_canaries_do_not_cover_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="250 actions need more than 256 tokens"):
        make(tmp_path, contexts=6, actions=250)


# Measurement


def of_algorithm(match: Match, name: str, eta: float, updates: int = 20) -> FloatArray:
    return exact_policies(match, create(name, step_size=eta), updates)


def test_distances_are_those_of_the_game(match: Match) -> None:
    start = np.stack([game.reference for game in match.games])
    equilibrium = np.stack([regularised_equilibrium(game).log_policy for game in match.games])
    found = curve(match, np.stack([start, equilibrium]))
    assert found.gap[0] == pytest.approx(np.mean([game.duality_gap(game.reference) for game in match.games]))
    assert found.gap[1] < 1e-12
    assert found.divergence[1] < 1e-12
    assert found.win_rate[0] == pytest.approx(0.5)
    means = [average_policy(policies) for policies in zip(start, equilibrium, strict=True)]
    expected = np.mean([game.duality_gap(mean) for game, mean in zip(match.games, means, strict=True)])
    assert found.average_gap[0] == pytest.approx(found.gap[0])
    assert found.average_gap[1] == pytest.approx(expected)


@pytest.mark.parametrize("eta", [0.05, 0.7])
def test_the_measured_step_is_that_of_the_exact_mirror_step(match: Match, eta: float) -> None:
    assert step_size(match, of_algorithm(match, "omd", eta), "reference") == pytest.approx(eta, rel=1e-9)
    assert step_size(match, of_algorithm(match, "mwu", eta), "none") == pytest.approx(eta, rel=1e-9)
    assert step_size(match, of_algorithm(match, "mwu", eta), "reference") != pytest.approx(eta, rel=1e-2)


def test_opponents_at_the_largest_stable_delay_converge_and_older_ones_do_not(match: Match) -> None:
    eta = 1.0
    largest = stable_delay(match, "omd", eta, "reference").largest_stable
    assert largest is not None

    def end(delay: int) -> float:
        return float(curve(match, exact_policies(match, create("omd", step_size=eta, delay=delay), 600)).gap[-1])

    assert end(largest) < 1e-3 < 1e-2 < end(largest + 1)


def test_without_a_pull_no_delay_is_stable(match: Match) -> None:
    assert stable_delay(match, "omd", 0.01, "none").largest_stable is None
    assert stable_delay(match, "omd", 0.01, "none").rotation > 0


def test_interval_is_students(match: Match) -> None:
    found = interval([1.0, 2.0, 3.0])
    assert found["mean"] == 2.0
    assert found["low"] == pytest.approx(2.0 - 4.302652729911275 / math.sqrt(3.0))
    assert interval([1.5]) == {"mean": 1.5, "seeds": [1.5]}


# Settings


def test_every_objective_can_be_verified() -> None:
    assert {setting.objective for setting in SETTINGS.values()} == set(OBJECTIVES)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(("eta", "labels"), [(0, "probability"), (2, "sampled")])
def test_every_setting_gives_a_run(folder: Path, match: Match, name: str, eta: int, labels: str) -> None:
    options: dict[str, Any] = {"folder": folder, "directory": folder, "seed": 0, "steps": 10, "batch": 4}
    config = configuration(SETTINGS[name], match, name=name, eta=eta, labels=labels, **options)
    assert config.loop.eta == eta
    assert config.scoring.labels == labels
    assert config.rollout.allowed_tokens == match.answers


def test_pairs_that_are_the_opponents_may_be_as_old_as_the_loop_allows() -> None:
    def allowed(name: str) -> Any:
        return options_on(SETTINGS[name], beta=BETA, eta=16, labels="probability").get("opponent_staleness")

    assert allowed("inpo") == 16
    assert allowed("inpo_three_sample") is None
    assert allowed("egpo") is None


@pytest.mark.parametrize("name", SETTINGS)
def test_the_slope_is_that_of_the_loss(name: str) -> None:
    setting = SETTINGS[name]
    objective = build_objective(setting.objective, options_on(setting, beta=BETA, eta=0, labels="probability"))
    margin = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    index = torch.zeros(1, dtype=torch.int64)
    pair = PairLogProbs(
        first=margin / 2, second=-margin / 2, anchor_first=zero, anchor_second=zero, behaviour_first=zero,
        behaviour_second=zero, first_length=one, second_length=one, first_index=index, second_index=index + 1,
        target=one, first_rate=one, second_rate=zero,
    )  # fmt: skip
    (gradient,) = torch.autograd.grad(objective.loss(pair).sum(), margin)
    # A certain verdict, P = 1, stands for win rates that differ by 1/2; DNO's soft label is sigma(1) - 1/2, not 1/4.
    sure = dict.fromkeys(("online_dpo", "dno_prct", "xpo"), 0.5)
    expected = {**sure, "dno": (1.0 / (1.0 + math.exp(-1.0)) - 0.5) / 0.25}.get(setting.objective, 1.0)
    assert -gradient.item() == pytest.approx(2.0 * setting.slope(BETA) * expected, rel=1e-3)


# Runs and their summary


def test_a_run_is_read_from_its_files(tmp_path: Path, match: Match) -> None:
    policies = of_algorithm(match, "egpo", 1.0, updates=2)

    def line(version: int, policy: str, place: int) -> str:
        rows = [dict(zip(map(str, match.answers), row.tolist(), strict=True)) for row in policies[place]]
        return json.dumps({"version": version, "policy": policy, "logprobs": rows}) + "\n"

    recorded = [line(0, "current", 0), line(0, "half", 0), line(1, "half", 2), line(2, "current", 2)]
    # A version that was published once more: the last line counts.
    (tmp_path / "canaries.jsonl").write_text("".join([*recorded, line(2, "current", 1), line(4, "current", 2)]))
    times = [("admitted", None, 10.0), *(("trained", version, 11.0 + version) for version in range(4))]
    events = [json.dumps({"event": event, "version": version, "time": time}) for event, version, time in times]
    (tmp_path / "events.jsonl").write_text("\n".join(events) + "\n")
    ages = {"mean": 1.5, "max": 2, "opponent": {"mean": 0.0, "max": 0}, "histogram": {"1": 1}}
    (tmp_path / "summary.json").write_text(json.dumps({"staleness": ages, "wall_seconds": 33.0}))
    found = read(tmp_path, SETTINGS["egpo"], match, seed=7)
    np.testing.assert_allclose(found.policies, policies, atol=1e-12)
    assert found.updates.tolist() == [0, 1, 2]
    assert found.versions.tolist() == [0, 2, 4]
    assert found.seconds.tolist() == [0, 2, 4]
    assert found.staleness == {"pair": {"mean": 1.5, "max": 2}, "opponent": {"mean": 0.0, "max": 0}}
    (tmp_path / "canaries.jsonl").unlink()
    with pytest.raises(RunFailed, match="0 versions of 'current'"):
        read(tmp_path, SETTINGS["egpo"], match, seed=7)


def outcome(match: Match, name: str, eta: float, seed: int = 0, updates: int = 40) -> Outcome:
    policies = of_algorithm(match, name, eta, updates)
    steps = np.arange(updates + 1, dtype=np.float64)
    return Outcome(
        seed=seed, match=match, updates=steps, versions=2 * steps, seconds=0.1 * steps, policies=policies,
        curve=curve(match, policies), eta=eta, delay=stable_delay(match, "egpo", eta, "reference"),
        staleness={"pair": {"mean": 1.0 + seed, "max": 2 + seed}}, wall_seconds=30.0,
    )  # fmt: skip


def test_summary_is_over_seeds(match: Match) -> None:
    found = [outcome(match, "egpo", eta, seed) for seed, eta in enumerate((1.0, 0.5))]
    summary = summarise({"egpo": found}, SETTINGS)["egpo"]
    gaps = [one.curve.gap[-1] for one in found]
    assert summary["end_gap"]["seeds"] == gaps
    assert summary["end_gap"]["mean"] == pytest.approx(np.mean(gaps))
    assert summary["ratio"]["seeds"] == [one.curve.gap[-1] / one.curve.gap[0] for one in found]
    assert summary["moved_share"]["mean"] == pytest.approx(0.75 * BETA)
    assert summary["delay"]["occurred"] == {"pair": {"mean": 1.5, "max": 3}}
    unstable = [found[0], replace(found[1], delay=replace(found[1].delay, largest_stable=None))]
    assert summarise({"egpo": unstable}, SETTINGS)["egpo"]["delay"]["largest_stable"] is None


def test_half_the_gain_is_measured_against_the_best_possible(match: Match) -> None:
    found = outcome(match, "egpo", 1.0)
    best = np.mean([(game.preference @ np.exp(game.reference)).max() for game in match.games])
    assert best_win_rate(found) == pytest.approx(best)
    rising = np.linspace(0.5, best, 41)
    assert half_gain(replace(found, curve=replace(found.curve, win_rate=rising))) == 2 * 20
    assert half_gain(replace(found, curve=replace(found.curve, win_rate=np.full(41, 0.5)))) is None


# The page


def page(folder: Path, outcomes: dict[str, list[Outcome]], exact: bool = False, kind: str = "cyclic") -> str:
    arguments = {"game": kind, "seeds": [0], "contexts": CONTEXTS, "actions": ACTIONS, "beta": BETA, "eta": 0}
    arguments |= {"steps": 40, "batch": 4, "labels": "probability", "flip_rate": 0.0, "exact": exact}
    summary = {"arguments": arguments, "versions": {"python": "3.11"}, "hardware": {"cpus": 2}, "commit": None}
    summary |= {"command": "verify", "objectives": summarise(outcomes, SETTINGS)}
    return write_report(folder, summary, outcomes).read_text(encoding="utf-8")


def test_report_shows_every_objective_and_is_inert(tmp_path: Path, match: Match) -> None:
    text = page(tmp_path, {"egpo": [outcome(match, "egpo", 1.0)], "sppo": [outcome(match, "mwu", 1.0)]})
    for name in ("egpo", "sppo"):
        assert f"<td>{name}</td>" in text
    shown = re.search(r'data-key="objectives.egpo.end_gap.mean" value="([^"]*)"', text)
    assert shown
    assert float(shown[1]) == float(outcome(match, "egpo", 1.0).curve.gap[-1])
    assert {"figure-gap", "figure-mean_policy", "figure-win_rate"} <= set(re.findall(r'<figure id="([^"]*)"', text))
    assert "figure-simplex" not in text
    assert "<script" not in text
    assert "http" not in text.replace("http-equiv", "")


def test_exact_updates_are_drawn_when_asked_for(tmp_path: Path, match: Match) -> None:
    outcomes = {"egpo": [outcome(match, "egpo", 1.0)], "xpo": [outcome(match, "mwu", 1.0)]}
    assert page(tmp_path, outcomes, exact=True).count("<path") > page(tmp_path, outcomes).count("<path")


def test_three_answers_are_a_triangle(tmp_path: Path) -> None:
    match = make(tmp_path, kind="rock_paper_scissors", actions=3)
    assert "figure-simplex" in page(tmp_path, {"egpo": [outcome(match, "egpo", 1.0)]}, kind="rock_paper_scissors")


def test_a_game_that_cannot_be_played_is_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--beta", "0", "--output", str(tmp_path)]) == 1
    assert "this game can't be played: beta must be positive" in capsys.readouterr().err.replace("\n", " ")
