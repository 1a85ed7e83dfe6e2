"""Trained preference models as scorers: exact symmetries, no dependence on the batch, and refusals that help."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
)

from actors.models import ModelError
from actors.preference_inputs import ResponseTooLong
from actors.reward_models import (
    GeneralPreferenceModel,
    PairClassifier,
    PreferenceMark,
    RewardModel,
    head_names,
    load_preference_model,
)
from tests.preference_models import make_classifier

PROMPT = [{"role": "user", "content": "say something"}]
RESPONSES = ["yes", "a much longer answer, with many words", "no!", "", "yes"]
ATTRIBUTES = ("helpful", "brief", "kind")


@pytest.fixture(scope="module")
def reward_folder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One output, and nothing in its configuration that is ours."""
    return make_classifier(tiny_model, tmp_path_factory.mktemp("reward") / "model")


@pytest.fixture(scope="module")
def heads_folder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three named outputs, scaled back to the units of their data."""
    mark = PreferenceMark(kind="reward_model", scale=(2.0, 1.0, 0.5), offset=(10.0, 0.0, -1.0))
    folder = tmp_path_factory.mktemp("heads") / "model"
    return make_classifier(tiny_model, folder, outputs=3, mark=mark, id2label=dict(enumerate(ATTRIBUTES)))


@pytest.fixture(scope="module")
def pair_folder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal model that answers with A or B."""
    folder = tmp_path_factory.mktemp("pair") / "model"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"nashloop": {"kind": "pair_classifier"}}))
    return folder


def reward_model(folder: Path, **options: object) -> RewardModel:
    model = load_preference_model(str(folder), **options)  # type: ignore[arg-type]
    assert isinstance(model, RewardModel)
    return model


def test_scores_are_those_of_transformers_on_one_row_each(reward_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(reward_folder)
    plain = AutoModelForSequenceClassification.from_pretrained(reward_folder, dtype=torch.float32)
    expected = []
    for response in RESPONSES:
        ids = tokenizer.apply_chat_template(
            [*PROMPT, {"role": "assistant", "content": response}], return_tensors="pt", return_dict=False
        )
        expected.append(plain(ids).logits.item())
    assert reward_model(reward_folder).scores(PROMPT, RESPONSES)[:, 0] == pytest.approx(expected, abs=1e-6)


def test_scores_depend_neither_on_the_batch_nor_on_the_order(reward_folder: Path) -> None:
    together = reward_model(reward_folder).scores(PROMPT, RESPONSES)
    model = reward_model(reward_folder, token_budget=1)
    apart = np.concatenate([model.scores(PROMPT, [response]) for response in RESPONSES[::-1]])[::-1]
    assert together == pytest.approx(apart, abs=1e-6)
    assert together.std() > 1e-3


def test_a_model_without_padding_token_is_read_at_its_last_token(
    tiny_model: Path, reward_folder: Path, tmp_path: Path
) -> None:
    """The conversation ends with the end token, which is also what pads; only with a padding token it is skipped."""
    folder = make_classifier(tiny_model, tmp_path / "model", pad_token_id=None)
    scores = reward_model(folder).scores(PROMPT, RESPONSES)
    plain = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for response, score in zip(RESPONSES, scores[:, 0], strict=True):
        ids = tokenizer.apply_chat_template(
            [*PROMPT, {"role": "assistant", "content": response}], return_tensors="pt", return_dict=False
        )
        assert plain(ids).logits.item() == pytest.approx(score, abs=1e-6)
    assert np.abs(scores - reward_model(reward_folder).scores(PROMPT, RESPONSES)).max() > 1e-3


def test_an_encoder_is_a_reward_model_too(tiny_model: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = BertForSequenceClassification(
        BertConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, num_labels=1, **shape)
    )
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    together = reward_model(tmp_path).scores(PROMPT, RESPONSES)
    apart = reward_model(tmp_path, token_budget=1).scores(PROMPT, RESPONSES)
    assert together == pytest.approx(apart, abs=1e-6)


def test_rewards_are_compared_by_bradley_terry(reward_folder: Path) -> None:
    model = reward_model(reward_folder)
    rewards = model.scores(PROMPT, RESPONSES)[:, 0]
    matrix = model.matrix(PROMPT, RESPONSES)
    assert matrix == pytest.approx(1.0 / (1.0 + np.exp(rewards[None, :] - rewards[:, None])))
    assert (matrix + matrix.T == 1.0).all()


def test_heads_by_name_and_by_number(heads_folder: Path) -> None:
    model = reward_model(heads_folder)
    assert model.heads == ATTRIBUTES
    scores = model.scores(PROMPT, RESPONSES)
    assert scores.shape == (5, 3)
    for head in ("brief", 1):
        one = reward_model(heads_folder, head=head)
        assert one.heads == ("brief",)
        assert (one.scores(PROMPT, RESPONSES)[:, 0] == scores[:, 1]).all()
    with pytest.raises(ModelError, match="heads helpful, brief, kind; choose"):
        model.matrix(PROMPT, RESPONSES)


def test_outputs_are_scaled_back_to_the_units_of_the_data(heads_folder: Path) -> None:
    scores = reward_model(heads_folder).scores(PROMPT, ["yes"])
    tokenizer = AutoTokenizer.from_pretrained(heads_folder)
    plain = AutoModelForSequenceClassification.from_pretrained(heads_folder, dtype=torch.float32)
    ids = tokenizer.apply_chat_template(
        [*PROMPT, {"role": "assistant", "content": "yes"}], return_tensors="pt", return_dict=False
    )
    raw = plain(ids).logits[0].tolist()
    assert scores[0] == pytest.approx([10 + 2 * raw[0], raw[1], -1 + raw[2] / 2], abs=1e-5)


@pytest.mark.parametrize("head", [3, -1, "honest"])
def test_a_head_out_of_range_is_refused(heads_folder: Path, head: str | int) -> None:
    with pytest.raises(ModelError, match="0 helpful, 1 brief, 2 kind"):
        load_preference_model(str(heads_folder), head=head)


def test_a_model_without_classification_head_is_refused(tiny_model: Path) -> None:
    with pytest.raises(ModelError, match="LlamaForCausalLM without a classification head"):
        load_preference_model(str(tiny_model))


def test_general_preferences_are_the_skew_product_of_the_embeddings(tiny_model: Path, tmp_path: Path) -> None:
    mark = PreferenceMark(kind="general_preference", temperature=0.1)
    folder = make_classifier(tiny_model, tmp_path / "model", outputs=4, mark=mark)
    model = load_preference_model(str(folder))
    assert isinstance(model, GeneralPreferenceModel)
    matrix = model.matrix(PROMPT, RESPONSES)
    assert (matrix + matrix.T == 1.0).all()
    assert (np.diag(matrix) == 0.5).all()
    assert matrix[0, 4] == pytest.approx(0.5)
    assert np.abs(matrix - 0.5).max() > 1e-3
    # The same head, read as four rewards.
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"nashloop": None}))
    v = reward_model(folder).scores(PROMPT, RESPONSES)
    score = sum(np.outer(v[:, b], v[:, b + 1]) - np.outer(v[:, b + 1], v[:, b]) for b in (0, 2))
    assert matrix == pytest.approx(1.0 / (1.0 + np.exp(-score / 0.1)), abs=1e-6)


def test_a_general_preference_model_has_no_heads(tiny_model: Path, tmp_path: Path) -> None:
    mark = PreferenceMark(kind="general_preference")
    folder = make_classifier(tiny_model, tmp_path / "model", outputs=2, mark=mark)
    with pytest.raises(ModelError, match="has no heads"):
        load_preference_model(str(folder), head=0)


def test_a_pair_classifier_averages_both_orders(pair_folder: Path) -> None:
    model = load_preference_model(str(pair_folder))
    assert isinstance(model, PairClassifier)
    matrix, orders = model.matrix(PROMPT, RESPONSES), model.orders(PROMPT, RESPONSES)
    assert (matrix + matrix.T == 1.0).all()
    assert matrix == pytest.approx((orders + 1.0 - orders.T) / 2.0)
    assert np.abs(orders + orders.T - 1.0).max() > 1e-3, "a random model has a position bias"
    apart = load_preference_model(str(pair_folder), token_budget=1)
    assert apart.matrix(PROMPT, RESPONSES) == pytest.approx(matrix, abs=1e-6)


def test_a_pair_classifier_with_absolute_positions_does_not_see_its_padding(tiny_model: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    torch.manual_seed(0)
    shape = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 256, "initializer_range": 0.5}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **shape))
    PreferenceMark(kind="pair_classifier").write(model.config)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    together, apart = (load_preference_model(str(tmp_path), token_budget=budget) for budget in (4096, 1))
    assert together.matrix(PROMPT, RESPONSES) == pytest.approx(apart.matrix(PROMPT, RESPONSES), abs=1e-5)


def test_labels_have_to_be_two_different_tokens(pair_folder: Path, tmp_path: Path) -> None:
    for labels in (["A", "A"], ["first", "second"]):
        folder = tmp_path / labels[0]
        shutil.copytree(pair_folder, folder)
        config = json.loads((folder / "config.json").read_text())
        config["nashloop"]["labels"] = labels
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(ModelError, match="two labels of one token each"):
            load_preference_model(str(folder))


@pytest.mark.parametrize("side", ["left", "right"])
def test_what_is_longer_than_the_window_is_cut_on_the_stated_side_and_counted(reward_folder: Path, side: str) -> None:
    model = reward_model(reward_folder, window=16, truncation_side=side)
    end = "z" * 40
    left, right = model.scores(PROMPT, ["a" * 40 + end, "b" * 40 + end])[:, 0]
    # "left" keeps the ends, which are equal; "right" keeps the prompt and nothing of either answer.
    assert left == right
    assert model.encoder.truncated == 2
    ids = model.encoder.response(PROMPT, "a" * 40 + end)
    whole = reward_model(reward_folder).encoder.response(PROMPT, "a" * 40 + end)
    assert ids == (whole[-16:] if side == "left" else whole[:16])


def test_what_is_longer_than_the_window_is_refused_where_no_side_is_stated(reward_folder: Path) -> None:
    model = reward_model(reward_folder, window=16)
    with pytest.raises(ResponseTooLong, match="window holds 16"):
        model.scores(PROMPT, ["a" * 40])
    assert model.encoder.truncated == 0
    with pytest.raises(ModelError, match="has 512 positions"):
        load_preference_model(str(reward_folder), window=513)


def test_a_given_template_is_what_is_read(reward_folder: Path) -> None:
    model = reward_model(reward_folder, template="{{rate}} {prompt} => {response}")
    tokenizer = AutoTokenizer.from_pretrained(reward_folder)
    assert tokenizer.decode(model.encoder.response(PROMPT, "yes")) == "{rate} say something => yes"
    turns = [*PROMPT, {"role": "assistant", "content": "no"}, {"role": "user", "content": "why?"}]
    text = tokenizer.decode(model.encoder.response(turns, "so"))
    assert text == "{rate} <turn> user\nsay something\n<turn> assistant\nno\n<turn> user\nwhy? => so"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{prompt} {answer}", "unknown field {answer}; it takes {prompt}, {response}"),
        ("{prompt}", "lacks the field {response}"),
        ("{prompt} {response", "malformed"),
    ],
)
def test_a_wrong_template_is_refused(reward_folder: Path, template: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_preference_model(str(reward_folder), template=template)


def test_outputs_without_names_are_numbered(tiny_model: Path, tmp_path: Path) -> None:
    assert reward_model(make_classifier(tiny_model, tmp_path / "m", outputs=2)).heads == ("head_0", "head_1")
    assert head_names(BertConfig(id2label={0: "x", 1: "LABEL_1"})) == ("x", "head_1")


def test_an_entry_of_another_version_is_refused(reward_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(reward_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"nashloop": {"kind": "oracle"}}))
    with pytest.raises(ModelError, match="kind: Input should be 'reward_model'"):
        load_preference_model(str(folder))
