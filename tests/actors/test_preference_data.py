"""Files of preferences: targets from votes, a split that shares no prompt, and bad rows refused with their line."""

import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.preference_data import (
    Comparison,
    PreferenceDataError,
    load_comparisons,
    load_ratings,
    split_by_prompt,
    turned_at_random,
)
from actors.prompts import PromptError

ASKED = ({"role": "user", "content": "Why?"},)
GOOD = {"prompt": "Why?", "chosen": "so", "rejected": "no"}
VOTED = {"prompt": "Why?", "first": "so", "second": "no"}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_chosen_response_is_preferred_by_its_margin(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", GOOD, GOOD | {"margin": 2}, GOOD | {"margin": None})
    rows, counts = load_comparisons(path)
    assert rows[0] == Comparison(messages=ASKED, first="so", second="no", target=1.0)
    assert [row.margin for row in rows] == [0.0, 2.0, 0.0]
    assert (counts.rows, counts.ties, counts.identical) == (3, 0, 0)
    assert rows[1].turned() == Comparison(messages=ASKED, first="no", second="so", target=0.0, margin=-2.0)


def test_votes_are_shares_and_ties_count_half(tmp_path: Path) -> None:
    votes = [["first", "first", "second"], ["tie", "second"], ["first", "second"], ["tie"]]
    rows, counts = load_comparisons(write(tmp_path / "d.jsonl", *(VOTED | {"votes": v} for v in votes)))
    assert [row.target for row in rows] == [pytest.approx(2 / 3), 0.25, 0.5, 0.5]
    assert counts.ties == 2


def test_identical_responses_are_left_out_and_counted(tmp_path: Path) -> None:
    rows, counts = load_comparisons(write(tmp_path / "d.jsonl", GOOD, GOOD | {"rejected": "so"}))
    assert (len(rows), counts.rows, counts.identical) == (1, 2, 1)


def test_missing_attributes_are_not_numbers(tmp_path: Path) -> None:
    row = {"prompt": "Why?", "response": "so"}
    scores = [{"kind": 1, "brief": 0.5}, {"kind": None, "brief": 2}, {"brief": 3}]
    rows, _ = load_ratings(write(tmp_path / "d.jsonl", *(row | {"scores": s} for s in scores)))
    assert [list(r.scores) for r in rows] == [["brief", "kind"]] * 3
    assert [r.scores["brief"] for r in rows] == [0.5, 2.0, 3.0]
    assert [math.isnan(r.scores["kind"]) for r in rows] == [False, True, True]


def test_parquet_is_read_like_jsonl(tmp_path: Path) -> None:
    rows = [VOTED | {"votes": ["first", "tie"]}, VOTED | {"votes": ["second"]}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "d.parquet")
    jsonl = load_comparisons(write(tmp_path / "d.jsonl", *rows))
    assert load_comparisons(tmp_path / "d.parquet") == jsonl
    chat = [{"messages": [{"role": "user", "content": "Why?"}], "chosen": "so", "rejected": "no"}]
    assert load_comparisons(write(tmp_path / "c.jsonl", *chat))[0][0].messages == ASKED


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (GOOD | {"chosen": "  "}, "the chosen response in line 2"),
        (GOOD | {"rejected": True}, "the rejected response in line 2"),
        ({"prompt": "Why?", "chosen": "so"}, "lacks the column 'rejected'"),
        ({"chosen": "so", "rejected": "no"}, "neither of 'prompt' and 'messages'"),
        (GOOD | {"margn": 1}, "unknown column 'margn'; did you mean 'margin'?"),
        (GOOD | {"margin": -1}, "is -1"),
        (GOOD | {"margin": "much"}, "'much'; it has to be a number"),
        (VOTED | {"votes": ["first"]}, "unknown column 'first'"),
        (GOOD | {"prompt": ""}, "the prompt in line 2"),
        (["so"], "a JSON list"),
    ],
)
def test_a_bad_comparison_is_refused_with_its_line(tmp_path: Path, row: object, message: str) -> None:
    with pytest.raises(PromptError) as caught:
        load_comparisons(write(tmp_path / "d.jsonl", GOOD, row))
    assert message in str(caught.value)
    assert "line 2 of" in str(caught.value)


@pytest.mark.parametrize("votes", [[], ["first", "none"], "first", [1], None])
def test_votes_that_are_none_are_refused(tmp_path: Path, votes: object) -> None:
    with pytest.raises(PreferenceDataError, match="the votes in line 1 of"):
        load_comparisons(write(tmp_path / "d.jsonl", VOTED | {"votes": votes}))


def test_a_broken_line_is_refused_with_its_number(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", GOOD)
    path.write_text(path.read_text() + '{"prompt": "Why?", "chosen"\n')
    with pytest.raises(PromptError, match=r"line 2 of .* is no JSON"):
        load_comparisons(path)


def test_votes_that_are_all_ties_are_refused(tmp_path: Path) -> None:
    rows = [
        VOTED | {"votes": ["tie"]},
        VOTED | {"votes": ["first", "second"]},
        VOTED | {"second": "so", "votes": ["tie"]},
    ]
    with pytest.raises(PreferenceDataError, match="3 rows, and none prefers a response: 2 are ties and 1 have two"):
        load_comparisons(write(tmp_path / "d.jsonl", *rows))


def test_files_without_anything_to_learn_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PreferenceDataError, match="is empty"):
        load_comparisons(write(tmp_path / "d.jsonl"))
    with pytest.raises(PromptError, match=r"preferences file .* does not exist"):
        load_comparisons(tmp_path / "none.jsonl")
    row = {"prompt": "Why?", "response": "so", "scores": {"kind": None, "brief": 1}}
    with pytest.raises(PreferenceDataError, match="no number for the attribute 'kind'"):
        load_ratings(write(tmp_path / "d.jsonl", row))
    with pytest.raises(PreferenceDataError, match="the scores in line 1"):
        load_ratings(write(tmp_path / "d.jsonl", row | {"scores": {}}))


def test_a_split_shares_no_prompt_and_follows_from_the_seed(tmp_path: Path) -> None:
    rows = [GOOD | {"prompt": f"Why {i % 20}?", "chosen": f"so {i}"} for i in range(100)]
    records, _ = load_comparisons(write(tmp_path / "d.jsonl", *rows))
    train, heldout = split_by_prompt(records, 0.25, seed=0)
    assert {r.messages[0]["content"] for r in train} & {r.messages[0]["content"] for r in heldout} == set()
    assert len({r.messages[0]["content"] for r in heldout}) == 5
    assert sorted(map(str, [*train, *heldout])) == sorted(map(str, records))
    assert split_by_prompt(records, 0.25, seed=0) == (train, heldout)
    assert split_by_prompt(records, 0.25, seed=1) != (train, heldout)
    assert len(split_by_prompt(records, 0.001, seed=0)[1]) == 5, "one prompt at least"
    with pytest.raises(PreferenceDataError, match="same prompt"):
        split_by_prompt(records[:1], 0.5, seed=0)


def test_places_mean_nothing_once_comparisons_are_turned() -> None:
    rows = [Comparison(messages=ASKED, first=f"{i}", second="no", target=1.0) for i in range(400)]
    turned = turned_at_random(rows, seed=0)
    assert 150 < sum(row.target for row in turned) < 250
    assert all(row in (before, before.turned()) for row, before in zip(turned, rows, strict=True))
    assert turned_at_random(rows, seed=1) != turned == turned_at_random(rows, seed=0)
