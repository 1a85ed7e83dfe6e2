"""What two orders say of a judge, worked out by hand, and the published figures of real judges."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from algorithms.agreement import agreement, judge_agreement, majority_verdict
from algorithms.ensembles import Standardisation, mean, uncertainty_weighted, worst_case

TABLES = Path(__file__).resolve().parents[3] / "shared" / "data"
tables = pytest.mark.skipif(not TABLES.is_dir(), reason="the real tables are not beside the project")
NONE = float("nan")
SIDES = {"A>B": 1.0, "A=B": 0.0, "B>A": -1.0, "1": 1.0, "2": -1.0}

VERDICTS = st.sampled_from([1.0, 0.0, -1.0, NONE])
PAIRS = st.lists(st.tuples(VERDICTS, VERDICTS, st.sampled_from([1.0, -1.0])), min_size=1, max_size=20)


def rows_of(*path: str, **wanted: str) -> list[dict[str, str]]:
    """The rows of a table that have these values."""
    with TABLES.joinpath(*path).open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if all(row[key] == value for key, value in wanted.items())]


def column(rows: list[dict[str, str]], name: str) -> Any:
    """Verdicts of a column; what names no side is none."""
    return np.array([SIDES.get(row[name], NONE) for row in rows])


def test_four_pairs_by_hand() -> None:
    """Right in both orders; the first place both times; a tie and then right; no verdict and then wrong."""
    found = judge_agreement(first=[1, 1, 0, NONE], second=[-1, 1, -1, 1], labels=[1, 1, 1, 1])
    assert found.accuracy == 2 / 4
    assert found.ties == 1 / 4
    assert found.accuracy_per_order == pytest.approx((2 / 4 + 2 / 4) / 2)
    assert found.consistency == 1 / 4
    assert found.position_bias == pytest.approx(((1 + 1 + 0 + 0) + (-1 + 1 - 1 + 1)) / 8)


def test_a_judge_that_always_takes_the_first_place() -> None:
    labels = np.array([1, -1, 1, 1, -1])
    found = judge_agreement(np.ones(5), np.ones(5), labels)
    assert (found.accuracy, found.ties, found.consistency, found.position_bias) == (0.0, 1.0, 0.0, 1.0)
    assert found.accuracy_per_order == 0.5


@given(PAIRS)
def test_naming_the_answers_the_other_way_round_changes_nothing(pairs: list[tuple[float, float, float]]) -> None:
    """Exchange both orders and the labels: the same judge on the same pairs."""
    first, second, labels = map(np.array, zip(*pairs, strict=True))
    assert judge_agreement(second, first, -labels) == judge_agreement(first, second, labels)
    right = judge_agreement(first, second, labels)
    wrong = judge_agreement(first, second, -labels)
    assert right.accuracy + wrong.accuracy + right.ties == pytest.approx(1.0)
    assert -1.0 <= right.position_bias <= 1.0


def test_majority_of_annotators() -> None:
    votes = np.array([[1, 1, -1], [0, 0, 1], [1, -1, 0], [NONE, NONE, -1], [NONE, NONE, NONE]])
    np.testing.assert_equal(majority_verdict(votes), [1, 0, NONE, -1, NONE])
    assert agreement([1, 1, 1, NONE, 1], majority_verdict(votes)) == 1 / 3


def test_what_is_no_verdict_is_refused() -> None:
    with pytest.raises(ValueError, match="a verdict is"):
        judge_agreement([2], [1], [1])
    with pytest.raises(ValueError, match="labels are"):
        judge_agreement([1], [1], [0])
    with pytest.raises(ValueError, match="1 and 2 verdicts for 1 labels"):
        judge_agreement([1], [1, 1], [1])
    with pytest.raises(ValueError, match="no pair"):
        agreement([1], [NONE])
    with pytest.raises(ValueError, match=r"\[pairs, annotators\]"):
        majority_verdict([1, 0])


@tables
@pytest.mark.parametrize(
    ("judge", "count", "accuracy", "inconsistent"),
    [("claude-3-haiku-20240307", 270, 32.2, 50.0), ("o1-mini-2024-09-12", 350, 65.7, 31.4)],
)
def test_judges_of_judgebench(judge: str, count: int, accuracy: float, inconsistent: float) -> None:
    rows = rows_of("judgebench", "judge_decisions_two_orders.csv", judge_model=judge)
    columns = (column(rows, name) for name in ("decision_order1", "decision_order2_raw", "label"))
    found = judge_agreement(*columns)
    assert len(rows) == count
    assert 100 * found.accuracy == pytest.approx(accuracy, abs=0.05)
    assert 100 * (1 - found.consistency) == pytest.approx(inconsistent, abs=0.05)


@tables
@pytest.mark.parametrize(
    ("judge", "subset", "accuracy", "consistency"),
    [
        ("GPT-4", "Natural", 0.955, 0.95),
        ("GPT-4", "Adversarial_Neighbor", 0.787, 0.933),
        ("GPT-4", "Adversarial_GPTInst", 0.864, 0.946),
        ("GPT-4", "Adversarial_GPTOut", 0.777, 0.936),
        ("GPT-4", "Adversarial_Manual", 0.804, 0.826),
        ("ChatGPT", "Adversarial_Neighbor", 0.194, 0.716),
    ],
)
def test_judges_of_llmbar(judge: str, subset: str, accuracy: float, consistency: float) -> None:
    """The file names the winner in the first order's numbering; the judge saw the second order exchanged."""
    rows = rows_of("llmbar", "judge_winners.csv", evaluator=judge, subset=subset, protocol="Vanilla")
    first, swapped, labels = (column(rows, name) for name in ("winner_swapFalse", "winner_swapTrue", "label"))
    found = judge_agreement(first, -swapped, labels)
    assert found.accuracy_per_order == pytest.approx(accuracy, abs=5e-4)
    assert found.consistency == pytest.approx(consistency, abs=5e-4)


@tables
@pytest.mark.parametrize(
    ("judge", "key", "percent"), [("pandalm-7b", "pandalm", 66.77), ("gpt-3.5-turbo", "gpt", 69.77)]
)
def test_judges_of_pandalm_against_three_people(judge: str, key: str, percent: float) -> None:
    """A verdict that is neither an answer nor a tie ("garbage") agrees with nobody."""

    def read(name: str) -> list[Mapping[str, Any]]:
        rows: list[Mapping[str, Any]] = json.loads((TABLES / "pandalm" / f"{name}.json").read_text(encoding="utf-8"))
        return rows

    people = {0: 0, 1: 1, 2: -1}
    votes = [[people[row[f"annotator{i}"]] for i in (1, 2, 3)] for row in read("testset-v1")]
    said = {"0": 0, "Tie": 0, "1": 1, "2": -1}
    verdicts = [said.get(str(row[f"{key}_result"]), NONE) for row in read(f"{judge}-testset-v1")]
    majority = majority_verdict(votes)
    assert len(majority) == 999
    assert not np.isnan(majority).any()
    assert 100 * agreement(verdicts, majority) == pytest.approx(percent, abs=5e-3)


@tables
def test_reward_models_of_judgebench_and_their_ensembles() -> None:
    """Members on one scale (all 700 scores, population variance); equal scores go to the second answer."""
    rows = rows_of("judgebench", "reward_model_scores_gpt4o_pairs.csv")
    names = [name.removesuffix("|A") for name in rows[0] if name.endswith("|A")]
    sides = [np.array([[float(row[f"{name}|{side}"]) for name in names] for row in rows]) for side in "AB"]
    first_is_chosen = column(rows, "label") > 0

    def percent(first: Any, second: Any) -> float:
        return round(100 * float(((first > second) == first_is_chosen).mean()), 2)

    alone = {name.split("_", 1)[1]: percent(sides[0][:, i], sides[1][:, i]) for i, name in enumerate(names)}
    assert alone == {
        "GRM-Gemma-2B-rewardmodel-ft": 59.43,
        "Skywork-Reward-Gemma-2-27B": 64.29,
        "Skywork-Reward-Llama-3.1-8B": 62.29,
        "internlm2-20b-reward": 63.43,
        "internlm2-7b-reward": 59.43,
    }
    scale = Standardisation.of(np.concatenate(sides))
    first, second = map(scale.apply, sides)
    assert percent(mean(first), mean(second)) == 62.57
    assert percent(worst_case(first), worst_case(second)) == 63.43
    assert percent(uncertainty_weighted(first, 0.5), uncertainty_weighted(second, 0.5)) == 62.00
    assert percent(uncertainty_weighted(first, 1.0), uncertainty_weighted(second, 1.0)) == 62.00
