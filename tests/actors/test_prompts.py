"""A prompt file is read whole and in order, or refused with one message that says where and why."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.prompts import BATCH_ROWS, PromptError, PromptRecord, check_lengths, load_prompts

QUESTION = {"role": "user", "content": "Why is the sky blue?"}
ANSWER = {"role": "assistant", "content": "Air scatters blue light most."}
RULE = {"role": "system", "content": "Be brief."}


def write_jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "prompts.jsonl"


def refusal(path: Path) -> str:
    with pytest.raises(PromptError) as raised:
        load_prompts(path)
    return str(raised.value)


def test_a_prompt_becomes_one_user_message(file: Path) -> None:
    texts = [
        "Why is the sky blue?",
        "Was ist ein Käse-Fondue? \N{FACE SAVOURING DELICIOUS FOOD}",
        " two\nlines ",
    ]
    write_jsonl(file, *({"prompt": text} for text in texts))
    assert load_prompts(file) == [
        PromptRecord(index=i, messages=({"role": "user", "content": text},)) for i, text in enumerate(texts)
    ]


@pytest.mark.parametrize("turns", [[QUESTION], [RULE, QUESTION], [QUESTION, ANSWER, QUESTION]])
def test_messages_are_kept_as_they_are(file: Path, turns: list[dict[str, str]]) -> None:
    assert load_prompts(write_jsonl(file, {"messages": turns}))[0].messages == tuple(turns)


def test_a_file_may_mix_both_columns_row_by_row(file: Path) -> None:
    write_jsonl(file, {"prompt": QUESTION["content"]}, {"messages": [QUESTION]})
    first, second = load_prompts(file)
    assert first.messages == second.messages == (QUESTION,)


def test_parquet_gives_the_same_records_as_jsonl(file: Path) -> None:
    rows = [{"messages": [RULE, QUESTION]}] * (BATCH_ROWS + 3)
    parquet = file.with_suffix(".parquet")
    pq.write_table(pa.Table.from_pylist(rows), parquet)
    records = load_prompts(parquet)
    assert records == load_prompts(write_jsonl(file, *rows))
    assert [record.index for record in records] == list(range(len(rows)))


def test_blank_lines_do_not_count_but_line_numbers_do(file: Path) -> None:
    file.write_text('\n{"prompt": "One?"}\n\n{"prompt": "Two?"}\n{"prompt": "Th\n', encoding="utf-8")
    assert "line 5 of" in refusal(file)
    file.write_text('\n{"prompt": "One?"}\n\n{"prompt": "Two?"}', encoding="utf-8")
    assert [record.index for record in load_prompts(file)] == [0, 1]


def test_a_missing_file_a_folder_and_another_kind_are_refused(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "none.jsonl")
    assert "is a folder" in refusal(tmp_path)
    (tmp_path / "prompts.csv").write_text("prompt\nWhy?\n")
    assert "'.csv'; accepted are .jsonl and .parquet" in refusal(tmp_path / "prompts.csv")


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_file_is_refused(file: Path, content: str) -> None:
    file.write_text(content)
    assert "is empty" in refusal(file)


def test_an_empty_parquet_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "prompts.parquet"
    pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), path)
    assert "is empty" in refusal(path)


def test_files_that_are_not_what_they_say_are_refused(file: Path) -> None:
    file.write_bytes(b'{"prompt": "caf\xe9"}\n')
    assert "not UTF-8" in refusal(file)
    parquet = file.with_suffix(".parquet")
    parquet.write_bytes(b"PAR1 no more of it")
    assert "cannot be read as Parquet" in refusal(parquet)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"promt": "Why?"}, "unknown column 'promt'; did you mean 'prompt'? Accepted is 'prompt' or 'messages'"),
        ({"Messages": [QUESTION]}, "did you mean 'messages'?"),
        ({"prompt": "Why?", "answer": "So."}, "unknown column 'answer'. Accepted is"),
        ({}, "neither of 'prompt' and 'messages'"),
        ({"prompt": "Why?", "messages": [QUESTION]}, "both of 'prompt' and 'messages'"),
        ({"prompt": ""}, "the prompt in line 2 of"),
        ({"prompt": " \n"}, "is empty"),
        ({"prompt": 7}, "is of type int; it has to be a text"),
        ({"prompt": None}, "is null"),
        ({"messages": []}, "an empty list"),
        ({"messages": "Why?"}, "of type str"),
        ({"messages": ["Why?"]}, "message 1 in line 2"),
        ({"messages": [{"role": "user"}]}, "has ['role']; it has to have 'role' and 'content'"),
        ({"messages": [QUESTION | {"name": "Ann"}]}, "nothing else"),
        ({"messages": [{"role": "human", "content": "Why?"}]}, "'human'; accepted are system, user, assistant"),
        ({"messages": [{"role": "user", "content": ""}]}, "message 1 in line 2"),
        ({"messages": [QUESTION, ANSWER]}, "the roles in line 2"),
        ({"messages": [ANSWER, QUESTION]}, "take turns"),
        ({"messages": [QUESTION, QUESTION]}, "take turns"),
        ({"messages": [RULE]}, "take turns"),
        ({"messages": [QUESTION, RULE, QUESTION]}, "at most one system message"),
        (["Why?"], "a JSON list"),
    ],
)  # fmt: skip
def test_a_bad_row_is_refused_with_its_line(file: Path, row: object, message: str) -> None:
    text = refusal(write_jsonl(file, {"prompt": "A good one?"}, row))
    assert message in text
    assert f"line 2 of {str(file)!r}" in text


@pytest.mark.parametrize("line", ['{"prompt": "Why?"', "prompt: Why?", "{'prompt': 'Why?'}", "NaN,", '{"prompt": "Why'])
def test_a_broken_json_line_is_refused_with_its_number(file: Path, line: str) -> None:
    file.write_text(f'{{"prompt": "One?"}}\n{{"prompt": "Two?"}}\n{line}\n')
    message = refusal(file)
    assert f"line 3 of {str(file)!r} is no JSON" in message
    assert "at at" not in message


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"promts": ["Why?"]}, "unknown column 'promts'; did you mean 'prompt'?"),
        ({"prompt": ["Why?"], "id": [1]}, "unknown column 'id'"),
        ({"prompt": ["Why?"], "messages": [[QUESTION]]}, "both of"),
        ({"prompt": ["Why?", None]}, "the prompt in row 2 of"),
        ({"prompt": [1, 2]}, "row 1 of"),
    ],
)
def test_a_bad_parquet_file_is_refused(tmp_path: Path, columns: dict[str, list[object]], message: str) -> None:
    path = tmp_path / "prompts.parquet"
    pq.write_table(pa.table(columns), path)
    assert message in refusal(path)


def test_lengths_up_to_the_context_pass_and_the_first_beyond_is_named() -> None:
    check_lengths([10, 36, 2], context=100, max_new_tokens=64)
    with pytest.raises(PromptError, match=r"prompt 1 .* has 37 tokens; .* leaves 36"):
        check_lengths([10, 37, 99], context=100, max_new_tokens=64)


def test_a_context_without_room_for_any_prompt_is_refused() -> None:
    with pytest.raises(PromptError, match="leaves no room"):
        check_lengths([], context=64, max_new_tokens=64)
