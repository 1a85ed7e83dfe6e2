"""Best of n by several members and rules: against enumeration and exact cases, and what is refused."""

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.records import SCHEMA, to_arrow
from algorithms.ensembles import Standardisation
from tests.examples import candidate, group
from workflows.evaluate.best_of_n import MEAN, SINGLE, UNCERTAINTY, WORST, Pool, curves, main, scored
from workflows.preference_model.labelling import read_answers

OPPONENTS = 3


def pool(members: int, prompts: int = 30, answers: int = 11, noise: float = 0.0, seed: int = 0) -> Pool:
    """Gold is a hidden quality of each answer; a member sees it with noise of its own."""
    generator = np.random.default_rng(seed)
    quality = generator.normal(size=(prompts, answers))
    rewards = quality[..., None] + noise * generator.normal(size=(prompts, answers, members))
    gold = [np.where(np.equal.outer(q, q), 0.5, np.greater.outer(q, q)) for q in quality]
    return Pool(members=tuple("abcd"[:members]), rewards=list(rewards), gold=gold)


def test_every_n_equals_the_mean_over_all_sets_of_n() -> None:
    given = pool(members=2, noise=1.0)
    found = curves(given, OPPONENTS, penalty=0.5)
    scale = Standardisation.of(np.concatenate(given.rewards))
    for row in found[WORST]["curve"]:
        values = []
        for rewards, gold in zip(given.rewards, given.gold, strict=True):
            worst = scale.apply(rewards).min(axis=1)[:-OPPONENTS]
            worth = gold[:-OPPONENTS, -OPPONENTS:].mean(axis=1)
            sets = combinations(range(len(worst)), row["n"])
            values.append(np.mean([worth[max(chosen, key=lambda i: float(worst[i]))] for chosen in sets]))
        assert row["gold"]["mean"] == pytest.approx(np.mean(values))
    assert [row["n"] for row in found[WORST]["curve"]] == [1, 2, 4, 8]


def test_members_that_agree_make_every_rule_the_same() -> None:
    given = pool(members=3)
    found = curves(given, OPPONENTS, penalty=0.5)
    for name in (MEAN, WORST, UNCERTAINTY, *given.members):
        for row, single in zip(found[name]["curve"], found[SINGLE]["curve"], strict=True):
            assert row["gold"] == pytest.approx(single["gold"])
            assert row["over_one_member"]["mean"] == pytest.approx(0.0, abs=1e-12)
    gold = [row["gold"]["mean"] for row in found[MEAN]["curve"]]
    assert gold == sorted(gold), "without errors of the proxy more choice is better"
    assert found[MEAN]["peak"] == 8


def test_one_member_is_the_mean_over_the_members_and_a_mean_of_noisy_ones_is_better() -> None:
    given = pool(members=4, noise=2.0, prompts=200)
    found = curves(given, OPPONENTS, penalty=0.5)
    last = {name: curve["curve"][-1] for name, curve in found.items()}
    assert last[SINGLE]["gold"]["mean"] == pytest.approx(np.mean([last[m]["gold"]["mean"] for m in given.members]))
    assert last[MEAN]["over_one_member"]["low"] > 0.0
    assert last[MEAN]["over_one_member"]["mean"] == pytest.approx(
        last[MEAN]["gold"]["mean"] - last[SINGLE]["gold"]["mean"]
    )


def test_a_proxy_that_is_wrong_where_it_is_surest_is_seen_to_turn() -> None:
    """One answer in eight fools the only member; best of 8 always takes it, and gold likes it least."""
    given = pool(members=1, prompts=60)
    rewards, gold = [], []
    for own, matrix in zip(given.rewards, given.gold, strict=True):
        worst = int(np.argmin(own[:-OPPONENTS, 0]))
        rewards.append(np.where(np.arange(len(own))[:, None] == worst, 10.0, own))
        gold.append(matrix)
    found = curves(replace(given, rewards=rewards), OPPONENTS, penalty=0.5)[SINGLE]
    assert found["peak"] < 8
    assert found["last_minus_peak"]["high"] < 0.0
    proxy = [row["proxy"]["mean"] for row in found["curve"]]
    assert proxy == sorted(proxy)


def test_the_penalty_changes_what_is_chosen() -> None:
    given = pool(members=3, noise=1.0)
    none, some = (curves(given, OPPONENTS, penalty) for penalty in (0.0, 2.0))
    assert none[UNCERTAINTY]["curve"] == none[MEAN]["curve"]
    assert some[UNCERTAINTY]["curve"] != some[MEAN]["curve"]


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    """Six answers to each of five prompts, of which each letter is known."""
    texts = ["a", "bb!", "ccc", "dddd!!", "eeeee", "ffffff"]
    candidates = tuple(candidate([1], text=text) for text in texts)
    groups = [replace(group(i, [1], [[1]] * 6), candidates=candidates) for i in range(5)]
    pq.write_table(pa.Table.from_batches([to_arrow(groups)], SCHEMA), tmp_path / "answers.parquet")
    return tmp_path / "answers.parquet"


def test_scorers_of_any_kind_take_part(answers: Path) -> None:
    found = scored(
        read_answers(answers),
        ["tests.scripted_rewards:length", "tests.scripted_rewards:exclamation"],
        ["tests.scripted_judges:longer"],
    )
    assert found.members == ("length", "exclamation")
    np.testing.assert_array_equal(found.rewards[0].T, [[1, 3, 3, 6, 5, 6], [0, 1, 0, 2, 0, 0]])
    assert found.gold[0][3, 5] == 0.5
    assert found.gold[0][4, 5] == 0.0


def test_everything_is_written(answers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members = ["tests.scripted_rewards:length", "tests.scripted_rewards:exclamation"]
    command = [str(answers), "--members", *members, "--gold", "tests.scripted_judges:longer", "--opponents", "2"]
    assert main([*command, "--output", str(tmp_path / "out")]) == 0
    summary = json.loads((tmp_path / "out" / "best_of_n.json").read_text())
    assert (summary["prompts"], summary["candidates"]) == (5, 4)
    # Best of 4 by length is "dddd!!", which beats "eeeee" and ties with "ffffff".
    assert summary["curves"]["length"]["curve"][-1]["gold"]["mean"] == 0.75
    assert (tmp_path / "out" / "best_of_n.png").read_bytes().startswith(b"\x89PNG")
    assert "Best of 4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--opponents": "5"}, "two or more to choose among"),
        ({"--opponents": "0"}, "at least 1"),
        ({"--gold": "tests.scripted_judges:taller"}, "no function 'taller'"),
        ({"--gold": "tests.scripted_judges:nan_judge"}, "the answers to prompt 0 can't be scored"),
        ({"--members": "tests.scripted_rewards:constant"}, "gave 3 to each of 30 samples"),
        ({"--members": "./nowhere"}, "nowhere"),
    ],
)
def test_bad_input_is_one_message(
    answers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, str], message: str
) -> None:
    options = {
        "--members": "tests.scripted_rewards:length",
        "--gold": "tests.scripted_judges:longer",
        "--opponents": "2",
        "--output": str(tmp_path / "out"),
    } | changes
    assert main([str(answers), *(part for option in options.items() for part in option)]) == 1
    shown = " ".join(capsys.readouterr().err.split())
    assert message in shown
    assert "Traceback" not in shown
    assert main([str(tmp_path / "none.parquet"), *(part for option in options.items() for part in option)]) == 1
    assert "is no file of answers" in " ".join(capsys.readouterr().err.split())
