"""Conversations become examples, small models follow from their texts, and bad files are refused by row."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors.prompts import PromptError
from actors.sft import SftConfig, SmallLlama
from workflows.config import ConfigError, parse_tree, read_tree
from workflows.sft import encode, load_conversations, split
from workflows.small_model import make_small_model

ROOT = Path(__file__).resolve().parents[2]
LADDER = sorted((ROOT / "configs" / "ladder").glob("*m.yaml"))
TEXTS = ["How are you today? I am well, thank you very much.", "Grüß Gott! 你好", "The weather is fine today."]


def conversation(*messages: tuple[str, str]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in messages]}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_conversation_is_prompt_and_answer(tmp_path: Path, tiny_model: Path) -> None:
    rows = [
        conversation(("user", "Hi"), ("assistant", "Hello")),
        conversation(("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")),
    ]
    found = load_conversations(write(tmp_path / "c.jsonl", rows))
    assert [answer for _, answer in found] == ["Hello", "d"]
    assert [len(prompt) for prompt, _ in found] == [1, 4]
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    prompt, answer = encode(str(tiny_model), found)[0]
    assert tokenizer.decode(prompt + answer) == "<|user|>Hi<|end|><|assistant|>Hello<|end|>"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "Hi"}, "don't end with an assistant's answer"),
        (conversation(("user", "Hi")), "don't end with an assistant's answer"),
        (conversation(("user", "Hi"), ("assistant", " ")), "don't end with an assistant's answer"),
        (conversation(("assistant", "Hello")), "row 2|line 2"),
        ({**conversation(("user", "Hi"), ("assistant", "Hello")), "score": 1}, "score"),
    ],
    ids=str,
)
def test_a_bad_row_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    rows = [conversation(("user", "Hi"), ("assistant", "Hello")), row]
    with pytest.raises(PromptError, match=message) as refused:
        load_conversations(write(tmp_path / "c.jsonl", rows))
    assert "2" in str(refused.value)


def test_what_does_not_fit_the_model_is_named(tiny_model: Path) -> None:
    long = (({"role": "user", "content": "x" * 600},), "y")
    with pytest.raises(PromptError, match=r"conversation 1 has \d+ tokens, and the model has 512 positions"):
        encode(str(tiny_model), [long])


def test_the_last_share_is_held_out() -> None:
    examples = [([i], [i]) for i in range(10)]
    trained, heldout = split(examples, 0.25)
    assert (len(trained), len(heldout)) == (7, 3)
    assert trained + heldout == examples
    assert split(examples, 0.0) == (examples, [])
    with pytest.raises(ConfigError, match="leaves nothing"):
        split(examples, 1.0)


def test_a_small_model_follows_from_texts_shape_and_seed(tmp_path: Path) -> None:
    small = SmallLlama(vocabulary=300, hidden=32, layers=1, feedforward=64, context=64)
    large = SmallLlama(vocabulary=300, hidden=64, layers=2, feedforward=64, context=64)
    for name, shape, seed in (("a", small, 0), ("b", small, 0), ("c", large, 0), ("d", small, 1)):
        make_small_model(tmp_path / name, shape, TEXTS, seed)
    states = {name: (tmp_path / name / "model.safetensors").read_bytes() for name in "abd"}
    assert states["a"] == states["b"] != states["d"]
    tokenizers = {name: AutoTokenizer.from_pretrained(tmp_path / name) for name in "ac"}
    assert tokenizers["a"].get_vocab() == tokenizers["c"].get_vocab()
    assert len(tokenizers["a"]) == 300
    assert all(tokenizers["a"].decode(tokenizers["a"](text)["input_ids"]) == text for text in TEXTS)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "c").config.num_hidden_layers == 2


def test_the_ladder_has_five_sizes_of_one_family() -> None:
    configs = [parse_tree(read_tree(path), SftConfig) for path in LADDER]
    shapes = [config.make for config in configs if config.make]
    sizes = sorted(
        shape.vocabulary * shape.hidden
        + shape.layers * (4 * shape.hidden**2 + 3 * shape.hidden * shape.feedforward + 2 * shape.hidden)
        + shape.hidden
        for shape in shapes
    )
    assert len(sizes) == 5
    assert 0.8e5 < sizes[0] < 1.5e5
    assert 0.8e7 < sizes[-1] < 1.2e7
    assert all(2 < larger / smaller < 4 for smaller, larger in itertools.pairwise(sizes))
    assert len({shape.vocabulary for shape in shapes}) == 1
    assert len({config.data.conversations for config in configs}) == 1
