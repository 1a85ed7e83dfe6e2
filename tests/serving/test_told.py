"""Prompts that tell directions, and the reward along the direction that a prompt tells."""

import json
from pathlib import Path
from typing import Any

import pytest

from actors.config import AlignConfig
from serving.prompts import conditioned
from serving.rewards import along, verbosity, warmth
from serving.told import main, told
from workflows.config import parse_tree, read_tree

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "directed.yaml"
OBJECTIVES = {"warmth": "serving.rewards:warmth", "verbosity": "serving.rewards:verbosity"}
PROMPTS = [({"role": "user", "content": f"say {number}"},) for number in range(20)]
CHOSEN: dict[str, Any] = {"drawn": 2, "template": "paper", "seed": 0}
ANGLES = [-45.0, 0.0, 45.0]


def question(row: dict[str, Any]) -> str:
    return str(row["messages"][-1]["content"])


def test_the_reward_is_along_the_direction_that_the_prompt_tells() -> None:
    long, warm = "word " * 80, "What a wonderful, lovely day!"
    for weights in ({"warmth": 0.6, "verbosity": 0.8}, {"warmth": 0.6, "verbosity": -0.8}):
        (message,) = conditioned(PROMPTS[0], "paper", weights)
        for answer in (long, warm):
            wanted = weights["warmth"] * warmth("", answer) + weights["verbosity"] * verbosity("", answer)
            assert along(**OBJECTIVES)(message["content"], answer) == pytest.approx(wanted, abs=1e-12)


def test_what_a_question_says_of_itself_is_no_direction() -> None:
    asked = ({"role": "user", "content": "What is verbosity*5 + warmth*-3?"},)
    (message,) = conditioned(asked, "paper", {"warmth": 0.6, "verbosity": -0.8})
    plain = conditioned(PROMPTS[0], "paper", {"warmth": 0.6, "verbosity": -0.8})[0]
    reward = along(**OBJECTIVES)
    assert reward(message["content"], "A fine day.") == reward(plain["content"], "A fine day.") != 0.0


def test_a_prompt_without_a_direction_is_no_reward_of_zero() -> None:
    with pytest.raises(ValueError, match=r"no direction over \['verbosity'\]: 'warmth\*100, please'"):
        along(**OBJECTIVES)("warmth*100, please", "yes")


def test_every_prompt_is_told_different_directions_and_all_are_told() -> None:
    rows = list(told(PROMPTS, ANGLES, list(OBJECTIVES), **CHOSEN))
    pairs = [(question(first), question(second)) for first, second in zip(rows[::2], rows[1::2], strict=True)]
    assert all(first != second for first, second in pairs)
    assert [question(row).splitlines()[-1] for row in rows[::2]] == [f"say {number}" for number in range(20)]
    directions = {question(row).split("rating = ")[1].split(".")[0] for row in rows}
    assert directions == {"warmth*71 + verbosity*-71", "warmth*100 + verbosity*0", "warmth*71 + verbosity*71"}
    again = list(told(PROMPTS, ANGLES, list(OBJECTIVES), **CHOSEN))
    assert rows == again != list(told(PROMPTS, ANGLES, list(OBJECTIVES), **CHOSEN | {"seed": 1}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drawn": 4}, "--drawn 4: of 3 directions 1 to 3 can be drawn"),
        ({"template": "dpa"}, "--template dpa tells directions in the system message, and scorers read the user's"),
    ],
)
def test_what_no_run_could_use_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(told(PROMPTS, ANGLES, list(OBJECTIVES), **CHOSEN | changes))


def test_the_command_writes_what_the_configuration_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts, output = tmp_path / "prompts.jsonl", tmp_path / "told" / "told.jsonl"
    prompts.write_text('{"prompt": "say it"}\n{"prompt": "and this"}\n', "utf-8")
    arguments = ["--prompts", str(prompts), "--objectives", "warmth", "verbosity", "--output", str(output)]
    assert main(arguments) == 0
    assert "wrote 2 prompts with 2 directions each" in capsys.readouterr().out
    config = parse_tree(read_tree(CONFIG), AlignConfig)
    (entry,) = config.scoring.panel
    reward = along(**entry.options)  # type: ignore[union-attr, arg-type]
    rows = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
    assert len(rows) == 4
    assert all(reward(question(row), "A fine day.") > 0.0 for row in rows if "verbosity*-" not in question(row))
    assert main([*arguments[:-1], str(output), "--template", "dpa"]) == 1
    assert "take paper or simpo" in capsys.readouterr().err
