"""Files of preferences become records; what is wrong with a file is said before anything starts.

A row has a `prompt` (text) or `messages` (a chat, see `actors.prompts`), and one of
- `chosen`, `rejected`, and perhaps `margin`: a number, by how much the chosen one has to win;
- `first`, `second`, `votes`: a list with one of "first", "second" and "tie" for every annotator;
- `response`, `scores`: an object of numbers by attribute, in which a missing attribute is null or left out.

All rows of a file have the same of these forms. Nothing is repaired or guessed: a response that is empty, a label
that is none, or an unknown column is an error with its line. Left out, and counted, are only pairs of identical
responses, and ties where the configuration drops them.
"""

import difflib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from actors.prompts import PromptError, messages_of, read_rows
from actors.records import Message, derive_seed

PROMPT_COLUMNS = ("prompt", "messages")
FORMS = (("chosen", "rejected", "margin"), ("first", "second", "votes"), ("response", "scores"))
OPTIONAL = {"margin"}
VERDICTS = {"first": 1.0, "second": 0.0, "tie": 0.5}


class PreferenceDataError(PromptError):
    """A file of preferences, or a row of it, that can't be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two responses to a prompt, and which is preferred.

    Example: `Comparison(messages=(...), first="yes", second="no", target=2 / 3)`.
    """

    messages: tuple[Message, ...]
    first: str
    second: str
    target: float
    """P(first > second): the share of votes, a tie counting half."""
    margin: float = 0.0
    """By how much the first has to win, in the units of a reward; negative where the second has to."""

    def turned(self) -> "Comparison":
        """The same with the second response first."""
        return Comparison(
            messages=self.messages,
            first=self.second,
            second=self.first,
            target=1.0 - self.target,
            margin=-self.margin,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """A response with scores of its attributes; a missing one is NaN.

    Example: `Rating(messages=(...), response="yes", scores={"helpful": 4.0, "verbose": math.nan})`.
    """

    messages: tuple[Message, ...]
    response: str
    scores: dict[str, float]


Record = Comparison | Rating
Kind = TypeVar("Kind", bound=Record)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What a file held: rows, and what was left out of them."""

    rows: int
    ties: int
    identical: int


def load_comparisons(path: str | Path) -> tuple[list[Comparison], Counts]:
    """Every comparison of a file, in its order, but for pairs of identical responses.

    Raises: `PromptError`, also for a file none of whose rows prefers a response.
    """
    rows = _rows(Path(path), FORMS[:2], _comparison)
    kept = [row for row in rows if row.first != row.second]
    ties = sum(row.target == 0.5 for row in kept)
    if len(kept) == ties:
        raise PreferenceDataError(
            f"preferences file {str(path)!r} holds {len(rows)} rows, and none prefers a response: {ties} are ties and "
            f"{len(rows) - len(kept)} have two identical responses. There is nothing to learn from it"
        )
    return kept, Counts(rows=len(rows), ties=ties, identical=len(rows) - len(kept))


def load_ratings(path: str | Path) -> tuple[list[Rating], Counts]:
    """Every rated response of a file, in its order; each has every attribute of the file.

    Raises: `PromptError`, also for an attribute that is nowhere given.
    """
    rows = _rows(Path(path), FORMS[2:], _rating)
    names = sorted({name for row in rows for name in row.scores})
    if empty := [name for name in names if all(math.isnan(row.scores.get(name, math.nan)) for row in rows)]:
        raise PreferenceDataError(f"preferences file {str(path)!r} gives no number for the attribute {empty[0]!r}")
    complete = [
        Rating(
            messages=row.messages,
            response=row.response,
            scores={name: row.scores.get(name, math.nan) for name in names},
        )
        for row in rows
    ]
    return complete, Counts(rows=len(rows), ties=0, identical=0)


def split_by_prompt(records: Sequence[Kind], share: float, seed: int) -> tuple[list[Kind], list[Kind]]:
    """Records for training, and those held out: all of about `share` of the prompts, the same for the same seed.

    Raises: `PreferenceDataError` with fewer than two prompts.
    """
    prompts = list(dict.fromkeys(_key(record) for record in records))
    if len(prompts) < 2:
        raise PreferenceDataError("all rows have the same prompt, so none can be held out; give data.heldout")
    shuffled = sorted(prompts, key=lambda key: derive_seed(seed, "heldout", key))
    heldout = set(shuffled[: min(max(round(share * len(prompts)), 1), len(prompts) - 1)])
    return [r for r in records if _key(r) not in heldout], [r for r in records if _key(r) in heldout]


def turned_at_random(comparisons: Iterable[Comparison], seed: int) -> list[Comparison]:
    """Each comparison with its responses in an order that follows from the seed, so that places mean nothing."""
    return [c.turned() if derive_seed(seed, "turn", i) % 2 else c for i, c in enumerate(comparisons)]


def _key(record: Record) -> str:
    return "\n".join(f"{message['role']}: {message['content']}" for message in record.messages)


def _rows(
    path: Path, forms: Sequence[Sequence[str]], parse: Callable[[dict[str, Any], tuple[Message, ...], str], Kind]
) -> list[Kind]:
    records = []
    form: Sequence[str] | None = None
    for where, row in read_rows(path, "preferences file"):
        row = {name: value for name, value in row.items() if value is not None or name not in OPTIONAL}
        form = _form(row, forms if form is None else [form], where)
        asked = {name: row[name] for name in PROMPT_COLUMNS if name in row}
        records.append(parse(row, messages_of(asked, where), where))
    if not records:
        raise PreferenceDataError(f"preferences file {str(path)!r} is empty; it needs at least one row")
    return records


def _form(row: dict[str, Any], forms: Sequence[Sequence[str]], where: str) -> Sequence[str]:
    """The form to which a row's columns belong."""
    names = set(row) - set(PROMPT_COLUMNS)
    best = max(forms, key=lambda form: len(names & set(form)))
    known = (*PROMPT_COLUMNS, *best)
    if unknown := sorted(names - set(best)):
        near = difflib.get_close_matches(unknown[0].lower(), known, n=1)
        meant = f"; did you mean {near[0]!r}?" if near else "."
        raise PreferenceDataError(f"{where} has an unknown column {unknown[0]!r}{meant} {_accepted(forms)}")
    if missing := [name for name in best if name not in names | OPTIONAL]:
        raise PreferenceDataError(f"{where} lacks the column {missing[0]!r}. {_accepted(forms)}")
    return best


def _accepted(forms: Sequence[Sequence[str]]) -> str:
    listed = [", ".join(f"[{name}]" if name in OPTIONAL else name for name in form) for form in forms]
    return f"Beside the prompt this file has the columns {' or '.join(listed)}"


def _comparison(row: dict[str, Any], messages: tuple[Message, ...], where: str) -> Comparison:
    if "chosen" in row:
        first, second = (_response(row, name, where) for name in ("chosen", "rejected"))
        return Comparison(messages=messages, first=first, second=second, target=1.0, margin=_margin(row, where))
    first, second = (_response(row, name, where) for name in ("first", "second"))
    votes = row["votes"]
    if not isinstance(votes, list) or not votes or any(vote not in VERDICTS for vote in votes):
        raise PreferenceDataError(
            f"the votes in {where} are {votes!r}; they have to be a list of {', '.join(map(repr, VERDICTS))}"
        )
    target = sum(VERDICTS[vote] for vote in votes) / len(votes)
    return Comparison(messages=messages, first=first, second=second, target=target)


def _rating(row: dict[str, Any], messages: tuple[Message, ...], where: str) -> Rating:
    scores = row["scores"]
    if not isinstance(scores, dict) or not scores:
        raise PreferenceDataError(f"the scores in {where} are {scores!r}; they have to be an object of numbers")
    numbers = {
        name: math.nan if value is None else _number(value, f"the score {name!r} in {where}")
        for name, value in scores.items()
    }
    return Rating(messages=messages, response=_response(row, "response", where), scores=numbers)


def _margin(row: dict[str, Any], where: str) -> float:
    margin = _number(row.get("margin", 0.0), f"the margin in {where}")
    if margin < 0:
        raise PreferenceDataError(f"the margin in {where} is {margin:g}; the chosen response wins, so it can't be less")
    return margin


def _response(row: dict[str, Any], name: str, where: str) -> str:
    value = row[name]
    if not isinstance(value, str) or not value.strip():
        found = "empty" if isinstance(value, str) else f"{value!r}"
        raise PreferenceDataError(f"the {name} response in {where} is {found}; it has to be a text")
    return value


def _number(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise PreferenceDataError(f"{what} is {value!r}; it has to be a number")
    return float(value)
