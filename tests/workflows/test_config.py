"""A configuration that can't be run is refused with the key, the value and what is allowed, before anything starts."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.examples import TREE, tree
from workflows.config import ConfigError, load_config, objective_of, parse_config, read_tree

ROOT = Path(__file__).resolve().parent.parent.parent
ALTERNATING: dict[str, Any] = {
    "objective": {"name": "egpo", "options": {"alternate": True}},
    "data__heldout": "heldout.jsonl",
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(TREE))
    return path


def refusal(**changes: Any) -> str:
    with pytest.raises(ConfigError) as raised:
        parse_config(tree(**changes))
    return str(raised.value)


def test_the_smallest_tree_is_completed_with_defaults(file: Path) -> None:
    config = load_config(file)
    assert config.name == "test"
    assert config.loop.steps == 4
    assert config.learner.method == "lora"
    assert config == parse_config(TREE)


def test_a_resolved_tree_gives_the_same_configuration_again() -> None:
    config = parse_config(TREE)
    assert parse_config(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("able", "gpu", "expected"),
    [
        ({"amx_bf16": True}, False, "bfloat16"),
        ({"avx512_bf16": True, "amx_bf16": False}, False, "bfloat16"),
        ({"avx512_f": True, "amx_bf16": False}, False, "float32"),
        ({}, True, "bfloat16"),
    ],
)
def test_auto_is_the_format_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, able: dict[str, bool], gpu: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert parse_config(tree(model__dtype="auto")).model.dtype == expected
    assert parse_config(tree(model__dtype="float16")).model.dtype == "float16"


def test_every_configuration_of_the_repository_is_valid() -> None:
    trees = [read_tree(path) for path in (ROOT / "configs").rglob("*.yaml")]
    runs = [found for found in trees if "loop" in found]
    assert len(runs) >= 11
    for run in runs:
        objective_of(parse_config(run))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learnr": {}}, "unknown key learnr; did you mean learner?"),
        ({"learner__learning_rat": 1e-6}, "unknown key learner.learning_rat; did you mean learner.learning_rate?"),
        ({"learner__lora__rnk": 4}, "unknown key learner.lora.rnk; did you mean learner.lora.rank?"),
        ({"rollout__zzz": 4}, "unknown key rollout.zzz; did you mean rollout."),
    ],
)
def test_an_unknown_key_names_the_nearest(changes: dict[str, Any], message: str) -> None:
    assert refusal(**changes).startswith(message)


def test_an_unknown_option_of_the_objective_names_the_nearest() -> None:
    message = refusal(objective__options={"betta": 0.1})
    assert "unknown option 'betta'; nearest is 'beta'" in message
    assert "objective.options" in message


def test_an_unknown_objective_names_the_nearest() -> None:
    message = refusal(objective__name="online_dp")
    assert message.startswith("objective.name: unknown objective 'online_dp'; nearest is 'online_dpo'")


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"learner__workers": "two"}, ["learner.workers = 'two'", "integer"]),
        ({"learner__learning_rate": [1]}, ["learner.learning_rate = [1]", "number"]),
        ({"learner__share_prompts": 3}, ["learner.share_prompts = 3", "boolean"]),
        ({"learner": "fast"}, ["learner = 'fast'", "dictionary"]),
        (
            {"scoring__panel": "tests.scripted_judges:longer"},
            ["scoring.panel = 'tests.scripted_judges:longer'", "tuple"],
        ),
        ({"loop__steps": 1.5}, ["loop.steps = 1.5", "integer"]),
        ({"name": 3}, ["name = 3", "string"]),
    ],
)
def test_a_wrong_type_is_named_with_its_value(changes: dict[str, Any], parts: list[str]) -> None:
    message = refusal(**changes)
    assert message.startswith(parts[0] + ": ")
    assert parts[1] in message


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"loop__eta": -1}, ["loop.eta = -1", "greater than or equal to 0"]),
        ({"loop__steps": 0}, ["loop.steps = 0", "greater than or equal to 1"]),
        ({"loop__batch": 0}, ["loop.batch = 0", "greater than or equal to 1"]),
        ({"learner__learning_rate": -1e-6}, ["learner.learning_rate = -1e-06", "greater than or equal to 0"]),
        ({"learner__learning_rate": float("nan")}, ["learner.learning_rate = nan", "greater than or equal to 0"]),
        ({"learner__schedule": "sine"}, ["learner.schedule = 'sine'", "'linear', 'cosine', 'wsd', 'rex' or 'curve'"]),
        ({"learner__betas": (0.9, 1.0)}, ["learner.betas.1 = 1.0", "less than 1"]),
        ({"learner__gpus": 2}, ["learner.gpus = 2", "less than or equal to 1"]),
        ({"model__dtype": "int8"}, ["model.dtype = 'int8'", "'float32', 'bfloat16' or 'float16'"]),
        ({"rollout__top_p": 0}, ["rollout.top_p = 0", "greater than 0"]),
        ({"rollout__max_running": 0}, ["rollout.max_running = 0", "greater than or equal to 1"]),
        ({"scoring__panel": []}, ["scoring.panel = []", "at least 1"]),
        ({"scoring__truncation_penalty": 2}, ["scoring.truncation_penalty = 2", "less than or equal to 1"]),
        ({"deadlines__batch": 0}, ["deadlines.batch = 0", "greater than 0"]),
        ({"name": "../elsewhere"}, ["name = '../elsewhere'", "pattern"]),
        ({"objective__options": {"candidates": 1}}, ["objective.options.candidates = 1", "greater than or equal to 2"]),
        ({"objective__options": {"beta": 0}}, ["objective.options.beta = 0", "greater than 0"]),
        (
            {"objective__options": {"link": "ipoo"}},
            ["objective.options.link = 'ipoo'", "'logistic', 'logistic_length"],
        ),
    ],
)
def test_a_value_out_of_range_is_named_with_what_is_allowed(changes: dict[str, Any], parts: list[str]) -> None:
    message = refusal(**changes)
    assert message.startswith(parts[0] + ": ")
    assert parts[1] in message
    assert "\n" not in message


@pytest.mark.parametrize("key", ["name", "model.name", "data.prompts", "loop.steps", "scoring.panel"])
def test_a_missing_key_is_named(key: str) -> None:
    incomplete: dict[str, Any] = tree()
    *parents, last = key.split(".")
    node = incomplete
    for parent in parents:
        node = node[parent]
    del node[last]
    with pytest.raises(ConfigError) as raised:
        parse_config(incomplete)
    assert str(raised.value) == f"{key} is missing"


def test_every_fault_is_told_at_once() -> None:
    message = refusal(loop__eta=-1, learner__workers=0, rollout__engines="x")
    assert [line.split(" = ")[0] for line in message.splitlines()] == [
        "loop.eta",
        "rollout.engines",
        "learner.workers",
    ]


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"loop__eta": 0, "loop__lookahead": 1}, ["deadlock", "lookahead 1", "eta = 0", "raise eta to 1"]),
        ({"loop__eta": 1, "loop__batch": 2, "loop__lookahead": 3}, ["lookahead 3", "raise eta to 2", "lookahead to 2"]),
        ({"rollout__max_sequences": 2}, ["objective.options.candidates = 3", "max_sequences x rollout.engines = 2"]),
        ({"rollout__max_new_tokens": 128}, ["rollout.max_new_tokens = 128", "model.context = 128"]),
        ({"evaluation__every": 2}, ["evaluation.every", "data.heldout"]),
        ({"learner__warmup_steps": 5}, ["learner.warmup_steps = 5", "loop.steps = 4"]),
        ({"rollout__gpus": 1, "rollout__tensor_parallel": 2}, ["gpus=1", "tensor_parallel=2"]),
        ({**ALTERNATING, "evaluation__every": 3}, ["evaluation.every = 3 is odd", "alternate", "give 4"]),
    ],
)
def test_keys_that_contradict_each_other_are_refused(changes: dict[str, Any], parts: list[str]) -> None:
    message = refusal(**changes)
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    "changes",
    [
        {"loop__eta": 1, "loop__lookahead": 2},
        {"rollout__max_sequences": 3},
        {"rollout__max_new_tokens": 127},
        {"evaluation__every": 2, "data__heldout": "heldout.jsonl"},
        {"learner__warmup_steps": 4},
        {"rollout__gpus": 2, "rollout__tensor_parallel": 2},
        {**ALTERNATING, "evaluation__every": 4},
    ],
    ids=str,
)
def test_the_nearest_thing_that_works_is_accepted(changes: dict[str, Any]) -> None:
    parse_config(tree(**changes))


# The command line


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("learner.learning_rate=1e-6", ("learner", "learning_rate"), 1e-6),
        ("learner.learning_rate=0.5", ("learner", "learning_rate"), 0.5),
        ("name=other", ("name",), "other"),
        ("scoring.panel=[tests.scripted_judges:longer, tests.scripted_judges:abc]", ("scoring", "panel"), 2),
        ("rollout.prefix_caching=false", ("rollout", "prefix_caching"), False),
        ("publication.tolerance=null", ("publication", "tolerance"), None),
        ("data.prompts=folder/a=b.jsonl", ("data", "prompts"), "folder/a=b.jsonl"),
        ("learner.lora={rank: 4}", ("learner", "lora", "rank"), 4),
        ("learner.lora.rank=4", ("learner", "lora", "rank"), 4),
        ("loop.steps=9", ("loop", "steps"), 9),
    ],
)
def test_set_reads_its_value_as_yaml(file: Path, override: str, path: tuple[str, ...], value: Any) -> None:
    found: Any = load_config(file, [override])
    for name in path:
        found = getattr(found, name)
    assert (len(found) if isinstance(found, tuple) else found) == value
    assert load_config(file) != load_config(file, [override]) or override == "publication.tolerance=null"


def test_set_reaches_options_of_the_objective(file: Path) -> None:
    config = load_config(file, ["objective.options.beta=1e-1", "objective.options.candidates=5"])
    assert objective_of(config).reward_scale == 0.1
    assert objective_of(config).sampling.candidates == 5


def test_the_last_set_counts(file: Path) -> None:
    assert load_config(file, ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("learner.learning_rate", "is not of the form key=value"),
        ("=3", "is not of the form key=value"),
        ("name.first=x", "name is a value, not a group of keys"),
        ("seed=[1", "the value is not YAML"),
        ("learner.learning_rat=1", "unknown key learner.learning_rat; did you mean learner.learning_rate?"),
        ("loop.eta=-1", "loop.eta = -1"),
    ],
)
def test_a_set_that_makes_no_sense_is_quoted(file: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_config(file, [override])
    assert message in str(raised.value)


# The file


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no configuration file .*absent\.yaml"):
        load_config(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: [1", "can't be read as YAML"),
        (b"\xff\xfe\x00", "can't be read as YAML"),
        (b"- a\n- b\n", "holds list where a tree of keys is expected"),
        (b"", "holds NoneType where a tree of keys is expected"),
    ],
)
def test_a_file_that_is_no_tree_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "run.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "run.yaml")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read"):
        load_config(tmp_path)
