"""What can't run is refused before anything starts: bad input with one message, a small cluster with both sums."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from actors.config import AlignConfig
from actors.models import ModelError, load_tokenizer, render_prompt
from actors.prompts import PromptError
from actors.scorer import ScorerError
from tests.examples import config
from tests.tiny import make_model
from workflows.preflight import Demand, check_inputs, demand_table, demands, shortage

QUESTIONS = [f"question number {i}" for i in range(6)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and two files of prompts."""
    folder = tmp_path_factory.mktemp("inputs")
    make_model(folder / "model")
    write(folder / "prompts.jsonl", QUESTIONS)
    write(folder / "heldout.jsonl", ["held out"])
    return folder


@pytest.fixture
def inputs(folder: Path, tmp_path: Path) -> Path:
    """The same, to be damaged."""
    return Path(shutil.copytree(folder, tmp_path / "inputs"))


def write(path: Path, prompts: list[str]) -> None:
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))


def of(folder: Path, **changes: Any) -> AlignConfig:
    files = {
        "model__name": str(folder / "model"),
        "data__prompts": str(folder / "prompts.jsonl"),
        "data__heldout": str(folder / "heldout.jsonl"),
        "directory": str(folder / "runs"),
    }
    return config(**{**files, **changes})


# Inputs


def test_good_input_is_loaded(folder: Path) -> None:
    found = check_inputs(of(folder, publication__canaries=2, publication__canary_tokens=5))
    assert [messages[0]["content"] for messages in found.prompts] == QUESTIONS
    assert [messages[0]["content"] for messages in found.heldout] == ["held out"]
    tokenizer = load_tokenizer(str(folder / "model"))
    rendered = [render_prompt(tokenizer, messages) for messages in found.prompts]
    assert found.canaries == tuple(tuple(ids[-5:]) for ids in rendered[:2])
    assert not (folder / "runs").exists(), "checking creates nothing"


def test_held_out_prompts_are_optional(folder: Path) -> None:
    assert check_inputs(of(folder, data__heldout=None)).heldout == ()


def refusal(kind: type[Exception], folder: Path, **changes: Any) -> str:
    before = sorted(folder.rglob("*"))
    with pytest.raises(kind) as raised:
        check_inputs(of(folder, **changes))
    assert sorted(folder.rglob("*")) == before, "nothing was created"
    message = str(raised.value)
    assert message.strip()
    return message


def test_a_model_that_is_missing(folder: Path) -> None:
    missing = str(folder / "no-model")
    message = refusal(ModelError, folder, model__name=missing)
    assert missing in message
    assert "does not exist" in message


def test_a_model_that_is_unreadable(inputs: Path) -> None:
    (inputs / "model" / "config.json").write_text("{")
    assert str(inputs / "model") in refusal(ModelError, inputs)


def test_a_model_without_weights(inputs: Path) -> None:
    (inputs / "model" / "model.safetensors").unlink()
    assert "weights" in refusal(ModelError, inputs)


def test_a_model_without_chat_template(inputs: Path) -> None:
    (inputs / "model" / "chat_template.jinja").unlink()
    assert "chat template" in refusal(ModelError, inputs)


@pytest.mark.parametrize("file", ["prompts.jsonl", "heldout.jsonl"])
@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("", ["empty"]),
        ('{"prompt": "a"}\n{"prompt": \n', ["line 2", "JSON"]),
        ('{"promt": "a"}\n', ["unknown column 'promt'", "'prompt'"]),
        ('{"prompt": "' + "long " * 40 + '"}\n', ["prompt 0", "128", "leaves 112"]),
    ],
    ids=["empty", "broken line", "unknown column", "too long"],
)
def test_bad_prompts(inputs: Path, file: str, content: str, parts: list[str]) -> None:
    (inputs / file).write_text(content)
    message = refusal(PromptError, inputs)
    for part in parts:
        assert part in message


def test_prompts_that_are_missing(folder: Path) -> None:
    assert "absent.jsonl' does not exist" in refusal(PromptError, folder, data__prompts=str(folder / "absent.jsonl"))


def test_room_for_the_answer_counts(folder: Path) -> None:
    check_inputs(of(folder, rollout__max_new_tokens=80))
    assert "leaves 19" in refusal(PromptError, folder, rollout__max_new_tokens=109)


def test_a_context_beyond_the_model(folder: Path) -> None:
    check_inputs(of(folder, model__context=512))
    message = refusal(ModelError, folder, model__context=513)
    assert "model.context = 513" in message
    assert "512 positions" in message


def test_a_judge_that_cannot_be_imported(folder: Path) -> None:
    message = refusal(ScorerError, folder, scoring__panel=["tests.scripted_judges:longer", "no.such.module:judge"])
    assert "no.such.module" in message


# Resources


def test_every_plane_says_what_it_wants() -> None:
    wanted = demands(
        config(
            rollout__engines=3,
            rollout__cpus=2,
            rollout__gpus=4,
            rollout__tensor_parallel=4,
            scoring__scorers=5,
            scoring__cpus=0.5,
            learner__workers=2,
            learner__cpus=6,
            learner__gpus=1,
        )
    )
    assert wanted == [
        Demand(plane="rollout", actors=3, cpus=2, gpus=4),
        Demand(plane="scoring", actors=5, cpus=0.5, gpus=0),
        Demand(plane="learner", actors=2, cpus=6, gpus=1),
    ]


def plane(name: str, actors: int, cpus: float, gpus: float = 0) -> Demand:
    return Demand(plane=name, actors=actors, cpus=cpus, gpus=gpus)


def test_a_shortage_shows_demand_and_supply_side_by_side() -> None:
    wanted = [plane("rollout", 2, 1.5), plane("scoring", 1, 1), plane("learner", 1, 2)]
    message = shortage(wanted, [(4.0, 0.0), (1.0, 0.0)])
    assert message is not None
    assert "demanded:  6 CPUs, 0 GPUs" in message
    assert "available: 5 CPUs, 0 GPUs on 2 nodes" in message
    assert "can't hold the rollout plane" in message
    assert demand_table(wanted, [(4.0, 0.0), (1.0, 0.0)]) in message
    rows = [line.split() for line in message.splitlines()]
    assert ["rollout", "2", "1.5", "0"] in rows
    assert ["learner", "1", "2", "0"] in rows


def test_what_fits_exactly_is_accepted() -> None:
    wanted = [plane("rollout", 2, 1), plane("scoring", 1, 0), plane("learner", 1, 2)]
    assert shortage(wanted, [(4.0, 0.0)]) is None
    assert shortage(wanted, [(3.9, 0.0)]) is not None


def test_more_gpus_than_there_are() -> None:
    wanted = [plane("rollout", 1, 1, 4), plane("learner", 5, 1, 1)]
    assert shortage(wanted, [(64.0, 9.0)]) is None
    message = shortage(wanted, [(64.0, 8.0)])
    assert message is not None
    assert "can't hold the learner plane" in message
    assert "demanded:  6 CPUs, 9 GPUs" in message
    assert "available: 64 CPUs, 8 GPUs" in message
    assert shortage([plane("rollout", 1, 1, 1)], [(64.0, 0.0)]) is not None


def test_an_actor_needs_all_its_resources_on_one_node() -> None:
    engine = [plane("rollout", 1, 1, 4)]
    assert shortage(engine, [(8.0, 2.0), (8.0, 2.0)]) is not None
    assert shortage(engine, [(8.0, 2.0), (8.0, 4.0)]) is None
    assert shortage([plane("learner", 1, 4)], [(2.0, 0.0), (2.0, 0.0)]) is not None
    assert shortage([plane("learner", 2, 2)], [(2.0, 0.0), (2.0, 0.0)]) is None


def test_cpu_actors_do_not_take_the_place_of_those_that_need_the_node() -> None:
    wanted = [plane("scoring", 2, 1), plane("rollout", 1, 2, 1)]
    assert shortage(wanted, [(2.0, 1.0), (2.0, 0.0)]) is None


def test_no_nodes_hold_nothing() -> None:
    assert shortage([plane("rollout", 1, 1)], []) is not None
