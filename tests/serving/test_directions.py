"""Conversations that teach directions: which answer each direction gets, and what becomes part of a conversation."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from actors.sft import SftConfig
from serving.directions import Taught, Written, best, check_told, contrast, conversation, converse
from tests.serving.echo import Echo, client, settings
from workflows.config import parse_tree, read_tree
from workflows.sft import load_conversations

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "directions.yaml"
TEXTS = ["bcd", "aei", "aeioubcdfg", "b%", "aeioubcdfghjklmnpqrst-"]
"""One for each seed. The fourth can't be scored, and the token limit cut the last one, which is the longest."""
ASKED: dict[str, Any] = {
    "drawn": 2,
    "seed": 0,
    "systems": (),
    "at_once": 4,
    "k": 5,
    "model": "policy",
    "max_tokens": 8,
    "temperature": 1.0,
}
PROMPT = ({"role": "user", "content": "say it"},)


def conversations(
    angles: list[float], prompts: int = 1, template: str = "dpa", **changes: Any
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The conversations, and what the policy was asked."""
    of = settings()
    service = Echo(of, lambda prompt, seed: TEXTS[seed % len(TEXTS)])

    async def ask() -> list[dict[str, Any]]:
        async with client(of, service) as asking:
            found = await converse(asking, [PROMPT] * prompts, angles, **(ASKED | changes))
            return [conversation(PROMPT, template, taught) for each in found for taught in each]

    return asyncio.run(ask()), service.asked


def test_each_direction_gets_the_complete_answer_that_is_best_along_it() -> None:
    """Warmth is the share of vowels, and length counts characters: 0 degrees takes "aei", 90 "aeioubcdfg"."""
    rows, asked = conversations([0.0, 90.0])
    answers = {row["messages"][0]["content"].split("rating = ")[1]: row["messages"][-1]["content"] for row in rows}
    assert answers == {"warmth*100 + length*0": "aei", "warmth*0 + length*100": "aeioubcdfg"}
    assert [message["role"] for message in rows[0]["messages"]] == ["system", "user", "assistant"]
    assert len(asked) == 2 * ASKED["k"]


def taught(direction: dict[str, float], candidate: tuple[str, dict[str, float]]) -> Taught:
    """A direction with its answer."""
    return Taught(direction=direction, answer=candidate[0], rewards=candidate[1])


def test_a_direction_may_take_what_was_written_for_another() -> None:
    kind, long = ("kind", {"warmth": 0.9, "length": 0.1}), ("long", {"warmth": 0.5, "length": 0.8})
    towards_warmth, towards_length = {"warmth": 1.0, "length": 0.0}, {"warmth": 0.0, "length": 1.0}
    written = [
        Written(direction=towards_warmth, candidates=[long]),
        Written(direction=towards_length, candidates=[kind]),
    ]
    assert best(written) == [taught(towards_warmth, kind), taught(towards_length, long)]
    assert best([Written(direction=towards_warmth, candidates=[])]) == []


def test_system_messages_are_told_in_turn_and_left_out_of_the_conversations() -> None:
    rows, asked = conversations([0.0, -45.0], systems=("Be brief.", "Be long."))
    assert [sum(text in str(body["messages"]) for body in asked) for text in ("Be brief.", "Be long.")] == [5, 5]
    assert "Be " not in json.dumps(rows)


def test_draws_follow_from_the_seed_and_differ_between_prompts() -> None:
    angles = [float(angle) for angle in range(-45, 1, 5)]
    first, asked = conversations(angles, prompts=6)
    assert first == conversations(angles, prompts=6)[0]
    assert first != conversations(angles, prompts=6, seed=1)[0]
    assert len({row["messages"][0]["content"] for row in first}) > 4
    assert len({body["seed"] for body in asked}) == len(asked)
    more, _ = conversations(angles, prompts=6, drawn=3)
    assert (len(first), len(more)) == (12, 18)


def test_the_template_is_the_one_that_is_named() -> None:
    rows, _ = conversations([0.0], template="paper", drawn=1)
    assert [message["role"] for message in rows[0]["messages"]] == ["user", "assistant"]


def test_a_template_for_other_objectives_is_refused_before_anything_is_written() -> None:
    service = Echo(settings())

    async def ask(template: str) -> None:
        async with client(settings(), service) as asking:
            await check_told(asking, template)

    asyncio.run(ask("dpa"))
    with pytest.raises(ValueError, match="phrases for verbosity, and the objectives are length, warmth"):
        asyncio.run(ask("spoken"))
    assert not service.asked


def test_the_supervised_start_reads_the_conversations(tmp_path: Path) -> None:
    rows, _ = conversations([0.0, 90.0])
    path = tmp_path / "conversations.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert sorted(answer for _, answer in load_conversations(path)) == ["aei", "aeioubcdfg"]


def test_the_configuration_trains_on_what_the_documents_write() -> None:
    config = parse_tree(read_tree(CONFIG), SftConfig)
    documents = (CONFIG.parents[1] / "docs" / "serving.md").read_text("utf-8")
    assert f"--output {config.data.conversations}" in documents
    assert f"--policy {config.directory}/{config.name}" in documents


@pytest.mark.parametrize("drawn", [3, 0])
def test_more_directions_than_there_are_cannot_be_drawn_nor_none(drawn: int) -> None:
    with pytest.raises(ValueError, match=f"--drawn {drawn}: of 2 directions 1 to 2 can be drawn"):
        conversations([0.0, 5.0], drawn=drawn)


def test_the_table_shows_what_sets_directions_apart() -> None:
    """Mean rewards by direction, from least to most of the second objective."""
    brief, long = {"warmth": 0.8, "length": -0.6}, {"warmth": 1.0, "length": 0.0}
    rows = [
        taught(long, ("", {"warmth": 0.5, "length": 0.75})),
        taught(brief, ("", {"warmth": 0.25, "length": 0.5})),
        taught(brief, ("", {"warmth": 0.75, "length": 0.0})),
    ]
    table = contrast(rows)
    cells = [list(column.cells) for column in table.columns]
    assert cells == [
        ["warmth +0.80, length -0.60", "warmth +1.00, length +0.00"],
        ["2", "1"],
        ["0.500", "0.500"],
        ["0.250", "0.750"],
    ]
