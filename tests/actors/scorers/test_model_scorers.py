"""Trained models in a panel: heads are members, every kind gives its own matrix, and faults are told before loading."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForSequenceClassification, LlamaConfig, PreTrainedTokenizerFast

from actors.models import ModelError
from actors.records import Candidate
from actors.reward_models import PreferenceMark, load_preference_model
from actors.scorer import Panel, Rejection, ScorerError
from actors.scorers.config import ScoringConfig
from algorithms.ensembles import bradley_terry
from algorithms.preference import cyclic_share
from tests.examples import candidate
from tests.preference_models import make_classifier
from tests.tiny import TEMPLATE, make_model

PROMPT = [{"role": "user", "content": "Why is the sky blue?"}]
TEXTS = ("Light scatters.", "", "Because it is.", "Ask someone else about that!")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A body, and of it a reward model of one head, one of three, a general preference model, and a pair classifier."""
    root = tmp_path_factory.mktemp("models")
    body = make_model(root / "body", tied=False)
    make_classifier(body, root / "one")
    make_classifier(body, root / "three", outputs=3, id2label={0: "warmth", 1: "brevity", 2: "truth"})
    make_classifier(body, root / "general", outputs=4, mark=PreferenceMark(kind="general_preference", temperature=0.1))
    make_model(root / "pair", tied=False, seed=3)
    config = LlamaConfig.from_pretrained(root / "pair")
    PreferenceMark(kind="pair_classifier").write(config)
    config.save_pretrained(root / "pair")
    return root


def panel(*entries: dict[str, Any], combine: Any = "majority") -> Panel:
    return Panel(ScoringConfig.model_validate({"panel": entries, "combine": combine}))


def entry(folder: Path, name: str, **options: Any) -> dict[str, Any]:
    return {"model": str(folder / name)} | options


def texts(*given: str) -> tuple[Candidate, ...]:
    return tuple(candidate([1], text=text) for text in given or TEXTS)


def test_a_reward_model_gives_its_rewards_and_bradley_terrys_matrix(folder: Path) -> None:
    found = panel(entry(folder, "one")).judged(PROMPT, texts())
    model: Any = load_preference_model(str(folder / "one"))
    rewards = model.scores(PROMPT, TEXTS)
    np.testing.assert_array_equal(found.rewards, rewards)
    np.testing.assert_array_equal(found.preference, bradley_terry(rewards[:, 0]))
    assert dict(found.figures.rewards) == {"one": pytest.approx(rewards.mean())}
    assert np.isfinite(rewards).all(), "an empty response is scored like any other"


def test_each_head_is_a_member(folder: Path) -> None:
    every = panel(entry(folder, "three"))
    assert every.names == ("three/warmth", "three/brevity", "three/truth")
    chosen = panel(entry(folder, "three", heads=["truth", 0]))
    assert chosen.names == ("three/truth", "three/warmth")
    one = panel(entry(folder, "three", heads=["brevity"]))
    assert one.names == ("three",)
    columns = every.judged(PROMPT, texts()).rewards
    assert columns is not None
    np.testing.assert_array_equal(chosen.judged(PROMPT, texts()).rewards, columns[:, [2, 0]])
    np.testing.assert_array_equal(one.judged(PROMPT, texts()).rewards, columns[:, [1]])


def test_objectives_are_heads_with_a_direction(folder: Path) -> None:
    rule = {"rule": "direction", "direction": [0.6, 0.0, -0.8], "standardise": False}
    found = panel(entry(folder, "three"), combine=rule).judged(PROMPT, texts())
    assert found.rewards is not None
    np.testing.assert_allclose(found.preference, bradley_terry(found.rewards @ [0.6, 0.0, -0.8]), atol=1e-12)


@pytest.mark.parametrize("name", ["general", "pair"])
def test_models_of_pairs_give_their_own_matrix(folder: Path, name: str) -> None:
    found = panel(entry(folder, name)).judged(PROMPT, texts())
    model: Any = load_preference_model(str(folder / name))
    np.testing.assert_array_equal(found.preference, model.matrix(PROMPT, TEXTS))
    assert (found.preference + found.preference.T == 1).all()
    assert (found.preference.diagonal() == 0.5).all()
    assert found.rewards is None


def test_a_general_preference_model_may_be_cyclic(folder: Path) -> None:
    """No member of the Bradley-Terry kind ever is."""
    words = texts(*(f"answer number {n}, {'!' * n}" for n in range(8)))
    assert cyclic_share(panel(entry(folder, "general")).judged(PROMPT, words).preference) > 0
    assert cyclic_share(panel(entry(folder, "one")).judged(PROMPT, words).preference) == 0


def other_tokenizer_model(root: Path) -> Path:
    """A classifier of words, not of bytes, with another vocabulary and another hidden size."""
    vocabulary = {word: i for i, word in enumerate(["<|end|>", "?", *"abcdefghijklmnopqrstuvwxyz"])}
    tokenizer = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>")
    fast.chat_template = TEMPLATE
    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=len(fast), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, max_position_embeddings=64, pad_token_id=0, eos_token_id=0, num_labels=1,
    )  # fmt: skip
    AutoModelForSequenceClassification.from_config(config).save_pretrained(root / "words")
    fast.save_pretrained(root / "words")
    return root / "words"


def test_members_of_an_ensemble_may_have_different_tokenizers(folder: Path, tmp_path: Path) -> None:
    other = other_tokenizer_model(tmp_path)
    rule = {"rule": "worst_case", "standardise": False}
    found = panel(entry(folder, "one"), {"model": str(other)}, combine=rule).judged(PROMPT, texts())
    alone = [panel(e).judged(PROMPT, texts()).rewards for e in (entry(folder, "one"), {"model": str(other)})]
    np.testing.assert_array_equal(found.rewards, np.concatenate([a for a in alone if a is not None], axis=1))
    assert found.rewards is not None
    np.testing.assert_array_equal(found.preference, bradley_terry(found.rewards.min(axis=1)))


def test_what_is_too_long_is_refused_or_cut_and_counted(folder: Path) -> None:
    long = texts("short", "long " * 30)
    with pytest.raises(
        Rejection, match=r"model one: prompt and response have .* tokens and the window holds 40"
    ) as raised:
        panel(entry(folder, "one", window=40)).judged(PROMPT, long)
    assert raised.value.name == "response_too_long"
    found = {
        side: panel(entry(folder, "one", window=40, truncation_side=side)).judged(PROMPT, long)
        for side in ("left", "right")
    }
    assert [scored.figures.cut for scored in found.values()] == [1, 1]
    assert found["left"].preference[0, 1] != found["right"].preference[0, 1]
    again = panel(entry(folder, "one", window=40, truncation_side="left"))
    counts = [again.judged(PROMPT, group).figures.cut for group in (long, texts("short", "s"), long)]
    assert counts == [1, 0, 1], "each group counts its own"


def test_a_template_replaces_the_chat_template(folder: Path, tmp_path: Path) -> None:
    template = tmp_path / "own.txt"
    template.write_text("Q: {prompt} A: {response}")
    own = panel(entry(folder, "one", template=str(template))).judged(PROMPT, texts())
    chat = panel(entry(folder, "one")).judged(PROMPT, texts())
    assert own.rewards is not None
    assert chat.rewards is not None
    assert (own.rewards != chat.rewards).all()


def test_a_small_budget_of_tokens_changes_only_rounding(folder: Path) -> None:
    small = panel(entry(folder, "one", token_budget=1)).judged(PROMPT, texts())
    large = panel(entry(folder, "one")).judged(PROMPT, texts())
    assert small.rewards is not None
    assert large.rewards is not None
    np.testing.assert_allclose(small.rewards, large.rewards, atol=1e-5)


def test_a_score_that_is_no_number_rejects_the_group(folder: Path, tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(folder / "one")
    model.score.weight.data.fill_(float("nan"))
    broken = make_classifier(folder / "body", tmp_path / "broken")
    model.save_pretrained(broken)
    with pytest.raises(Rejection, match="model broken") as raised:
        panel({"model": str(broken)}).judged(PROMPT, texts())
    assert raised.value.name == "invalid_reward"


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("body", {}, ModelError, "LlamaForCausalLM without a classification head, so it scores nothing"),
        ("absent", {}, ModelError, "absent"),
        ("three", {"heads": [3]}, ModelError, "head 3 was asked for, and this model has 0 warmth, 1 brevity, 2 truth"),
        ("three", {"heads": ["kindness"]}, ModelError, "head 'kindness' was asked for"),
        ("general", {"heads": [0]}, ScorerError, "is a general_preference, which has no heads"),
        ("one", {"template": "absent.txt"}, ScorerError, "template 'absent.txt' can't be read"),
    ],
)
def test_faults_are_told_before_weights_are_read(
    folder: Path, name: str, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        panel(entry(folder, name, **options))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("one", "{prompt} {answer}", "unknown field {answer}"),
        ("pair", "{prompt} {response}", "unknown field {response}"),
        ("pair", "{prompt} {first}", "lacks the field {second}"),
    ],
)
def test_a_template_with_other_fields_is_refused(
    folder: Path, tmp_path: Path, name: str, text: str, message: str
) -> None:
    path = tmp_path / "own.txt"
    path.write_text(text)
    with pytest.raises(ModelError, match=message):
        panel(entry(folder, name, template=str(path)))


def test_a_conversation_that_the_template_refuses_rejects_the_group(folder: Path, tmp_path: Path) -> None:
    strict = make_classifier(folder / "body", tmp_path / "strict")
    template = "{{ raise_exception('no system message') if messages[0]['role'] == 'system' }}" + TEMPLATE
    (strict / "chat_template.jinja").write_text(template)
    with pytest.raises(Rejection, match=r"model strict: .* no system message") as raised:
        panel({"model": str(strict)}).judged([{"role": "system", "content": "Be brief."}, *PROMPT], texts())
    assert raised.value.name == "scorer_error"
    panel({"model": str(strict)}).judged(PROMPT, texts())


def test_a_rule_of_rewards_refuses_a_model_of_pairs(folder: Path) -> None:
    with pytest.raises(ScorerError, match="general compares pairs; combine it by majority"):
        panel(entry(folder, "one"), entry(folder, "general"), combine="mean")


def test_a_cut_completion_still_loses(folder: Path) -> None:
    given = texts("one", "two")
    cut = (replace(given[0], finish_reason="length"), given[1])
    assert panel(entry(folder, "one")).judged(PROMPT, cut).preference[0, 1] == 0.0
