"""Prompt files, JSONL or Parquet, become records; what is wrong with a file is said before anything starts.

The contract: `load_prompts` either returns every prompt of the file, in order, or raises one `PromptError`
that names the file, the row and what is accepted. Nothing is skipped, repaired or guessed. Files are read row
by row (JSONL) or batch by batch (Parquet), and only the messages are kept.

A row has either `prompt`, a text that becomes one user message, or `messages`, a list of
`{"role", "content"}` that ends with a user message. Other columns are errors, so that a misspelt one cannot
pass unseen.
"""

import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from actors.records import Message

COLUMNS = ("prompt", "messages")
ROLES = ("system", "user", "assistant")
BATCH_ROWS = 1024


class PromptError(ValueError):
    """A prompt file, or a prompt in it, that cannot be used."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptRecord:
    """One prompt.

    Example: `PromptRecord(index=0, messages=({"role": "user", "content": "Why is the sky blue?"},))`.
    """

    index: int
    """Row of the file, counted from 0; blank lines do not count."""
    messages: tuple[Message, ...]


def load_prompts(path: str | Path) -> list[PromptRecord]:
    """Read every prompt of a `.jsonl` or `.parquet` file, in the file's order.

    Raises `PromptError` for a file that is missing, empty, of another kind or broken; for columns other than
    `prompt` or `messages`, for both or neither of them; and for a prompt that is empty, no text, or whose
    roles are not a conversation that ends with the user.
    """
    path = Path(path)
    records = [
        PromptRecord(index=index, messages=messages_of(row, where))
        for index, (where, row) in enumerate(read_rows(path, "prompts file"))
    ]
    if not records:
        raise PromptError(f"prompts file {str(path)!r} is empty; it needs at least one prompt")
    return records


def read_rows(path: Path, what: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (where, row) of every row of a `.jsonl` or `.parquet` file; `what` is what messages call the file.

    Rows are counted from 1.
    Raises `PromptError` for a file that is missing, of another kind or broken.
    """
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise PromptError(f"{what} {str(path)!r} {found}; give a .jsonl or .parquet file")
    readers = {".jsonl": _jsonl_rows, ".parquet": _parquet_rows}
    if path.suffix not in readers:
        raise PromptError(f"{what} {str(path)!r} ends in {path.suffix!r}; accepted are {' and '.join(readers)}")
    return readers[path.suffix](path, what)


def check_lengths(lengths: Sequence[int], *, context: int, max_new_tokens: int) -> None:
    """Raise `PromptError` naming the first prompt that leaves no room for its answer.

    `lengths` are the token counts of the rendered prompts, in the order of the file; `context` is the longest
    sequence that the engine holds, prompt and answer together, in tokens.
    """
    room = context - max_new_tokens
    if room < 1:
        raise PromptError(
            f"max_new_tokens={max_new_tokens} leaves no room for a prompt in a context of {context} tokens"
        )
    for index, length in enumerate(lengths):
        if length > room:
            raise PromptError(
                f"prompt {index} (counted from 0) has {length} tokens; a context of {context} with "
                f"max_new_tokens={max_new_tokens} leaves {room}. Shorten it, or change one of the two"
            )


def _jsonl_rows(path: Path, what: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (where, row) for every line that is not blank."""
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    where = f"line {number} of {str(path)!r}"
                    yield where, _json_object(line, where)
    except OSError as error:
        raise PromptError(f"{what} {str(path)!r} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PromptError(f"{what} {str(path)!r} is not UTF-8 text: {error.reason}") from error


def _json_object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise PromptError(f"{where} is no JSON: {error.msg.removesuffix(' at')} at column {error.colno}") from error
    if not isinstance(row, dict):
        raise PromptError(f'{where} is a JSON {type(row).__name__}; a line looks like {{"prompt": "..."}}')
    return row


def _parquet_rows(path: Path, what: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (where, row) for every row; rows are counted from 1, as lines are."""
    try:
        with pq.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number} of {str(path)!r}", row
    except (OSError, pa.ArrowException) as error:
        raise PromptError(f"{what} {str(path)!r} cannot be read as Parquet: {error}") from error


def _check_columns(names: Sequence[str], where: str) -> str:
    """Return the one column that holds the prompt."""
    for name in names:
        if name not in COLUMNS:
            near = difflib.get_close_matches(str(name).lower(), COLUMNS, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else "."
            raise PromptError(f"{where} has an unknown column {name!r}{meant} Accepted is 'prompt' or 'messages'")
    present = [name for name in COLUMNS if name in names]
    if len(present) != 1:
        raise PromptError(f"{where} has {'both' if present else 'neither'} of 'prompt' and 'messages'; give one")
    return present[0]


def messages_of(row: dict[str, Any], where: str) -> tuple[Message, ...]:
    """The conversation in a row's `prompt` or `messages`, which it has to have and nothing else."""
    value = row[_check_columns(list(row), where)]
    if "prompt" in row:
        return ({"role": "user", "content": _text(value, f"the prompt in {where}")},)
    if not isinstance(value, list) or not value:
        raise PromptError(f"the messages in {where} are {_kind(value)}; they have to be a list of role and content")
    messages = tuple(_message(item, f"message {i} in {where}") for i, item in enumerate(value, start=1))
    _check_roles([message["role"] for message in messages], where)
    return messages


def _message(item: object, where: str) -> Message:
    if not isinstance(item, dict) or set(item) != {"role", "content"}:
        found = sorted(map(str, item)) if isinstance(item, dict) else _kind(item)
        raise PromptError(f"{where} has {found}; it has to have 'role' and 'content' and nothing else")
    if item["role"] not in ROLES:
        raise PromptError(f"{where} has the role {item['role']!r}; accepted are {', '.join(ROLES)}")
    return {"role": item["role"], "content": _text(item["content"], where)}


def _check_roles(roles: Sequence[str], where: str) -> None:
    """A system message may come first; then user and assistant take turns, and the user has the last word."""
    turns = roles[1:] if roles[0] == "system" else roles
    ordered = "system" not in turns and all(a != b for a, b in pairwise(turns)) and turns[:1] == ["user"]
    if not ordered or turns[-1] != "user":
        raise PromptError(
            f"the roles in {where} are {', '.join(roles)}; user and assistant have to take turns, from "
            f"user to user, after at most one system message"
        )


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise PromptError(f"{where} is {_kind(value)}; it has to be a text")
    if not value.strip():
        raise PromptError(f"{where} is empty")
    return value


def _kind(value: object) -> str:
    if value is None:
        return "null"
    return "an empty list" if value == [] else f"of type {type(value).__name__}"
