"""The policy gives the log-probabilities of a plain forward pass, and saves a folder that anything can load."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors.config import AlignConfig
from actors.policy import Policy
from algorithms.layout import pack_groups
from tests.examples import config
from tests.tiny import make_model

CANARIES = ((5, 6, 7, 8), (9,), (10, 11, 12))
ROWS = [([5, 6, 7], [[8, 9], [10]]), ([11, 12], [[13, 14, 15]])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("untied"), tied=False)


def policy(folder: Path, **changes: Any) -> Policy:
    settings: AlignConfig = config(**changes)
    return Policy(settings, str(folder), torch.device("cpu"))


def move(model: Policy, size: float = 0.05) -> None:
    """Change every trained parameter, as training would."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters().values():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))


@torch.no_grad()
def plain(model: Any, ids: tuple[int, ...]) -> torch.Tensor:
    """[T, V] log-probabilities of a plain forward pass."""
    found: torch.Tensor = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    return found


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("share_prompts", [True, False])
def test_canaries_are_the_most_likely_next_tokens(folder: Path, method: str, share_prompts: bool) -> None:
    found = policy(folder, learner__method=method, learner__share_prompts=share_prompts)
    move(found)
    answers = found.canary_logprobs(CANARIES)
    assert len(answers) == len(CANARIES)
    for canary, answer in zip(CANARIES, answers, strict=True):
        expected = plain(found.model, canary)[-1]
        best = expected.topk(len(answer))
        assert set(answer) == set(best.indices.tolist())
        for token, value in answer.items():
            assert value == pytest.approx(expected[token].item(), abs=1e-5)


def test_canaries_do_not_feel_dropout(folder: Path) -> None:
    found = policy(folder, learner__method="lora", learner__lora={"dropout": 0.5})
    move(found)
    with torch.no_grad():
        layout = pack_groups(ROWS, share_prompts=True)
        assert not torch.equal(found.sequence_logprobs(layout), found.sequence_logprobs(layout)), "dropout trains"
    assert found.canary_logprobs(CANARIES) == found.canary_logprobs(CANARIES)
    assert found.model.training


@pytest.mark.parametrize("method", ["full", "lora"])
def test_sequences_are_summed_and_tempered(folder: Path, method: str) -> None:
    found = policy(folder, learner__method=method, rollout__temperature=0.5)
    move(found)
    sums = found.sequence_logprobs(pack_groups(ROWS, share_prompts=True))
    with torch.no_grad():
        for total, (prompt, completion) in zip(sums, [(p, y) for p, ys in ROWS for y in ys], strict=True):
            logits = found.model(torch.tensor([prompt + completion])).logits[0] / 0.5
            tokens = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(-1, torch.tensor(completion)[:, None])
            assert total.item() == pytest.approx(tokens.sum().item(), abs=1e-4)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_reference_is_the_start_and_has_no_gradient(folder: Path, method: str) -> None:
    found = policy(folder, learner__method=method)
    layout = pack_groups(ROWS, share_prompts=True)
    start = found.sequence_logprobs(layout, reference=True)
    torch.testing.assert_close(found.sequence_logprobs(layout).detach(), start)
    move(found)
    assert torch.equal(found.sequence_logprobs(layout, reference=True), start)
    assert (found.sequence_logprobs(layout) - start).abs().max() > 1e-3
    assert not start.requires_grad
    assert found.sequence_logprobs(layout).requires_grad


def test_lora_trains_adapters_of_the_configured_kind(folder: Path) -> None:
    def shapes(**lora: Any) -> dict[str, tuple[int, ...]]:
        found = policy(folder, learner__method="lora", learner__lora=lora)
        return {name: tuple(parameter.shape) for name, parameter in found.parameters().items()}

    everything = shapes()
    assert all("lora_" in name for name in everything)
    assert {min(shape) for shape in everything.values()} == {16}
    assert {min(shape) for shape in shapes(rank=2).values()} == {2}
    assert {name.split(".")[-4] for name in shapes(targets=["q_proj"])} == {"q_proj"}
    assert len(everything) > len(shapes(targets=["q_proj"]))


def test_alpha_scales_the_adapter(folder: Path) -> None:
    layout = pack_groups(ROWS, share_prompts=True)

    def ratio(alpha: float) -> float:
        found = policy(folder, learner__method="lora", learner__lora={"alpha": alpha})
        move(found, 0.01)
        with torch.no_grad():
            change = found.sequence_logprobs(layout) - found.sequence_logprobs(layout, reference=True)
        return change.abs().sum().item()

    assert ratio(64) > 1.5 * ratio(32) > 0


def test_full_training_trains_everything_in_float32(folder: Path) -> None:
    found = policy(folder, learner__method="full", model__dtype="bfloat16")
    assert {parameter.dtype for parameter in found.parameters().values()} == {torch.float32}
    names = {name for name, _ in found.model.named_parameters()}
    assert found.parameters().keys() == names


def test_autocast_computes_products_in_the_models_format(folder: Path) -> None:
    layout = pack_groups(ROWS, share_prompts=True)
    exact, rounded = (
        policy(folder, learner__method="full", model__dtype="bfloat16", learner__autocast=autocast)
        .sequence_logprobs(layout)
        .detach()
        for autocast in (False, True)
    )
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(exact, rounded, atol=0.3, rtol=0)


def test_an_adapters_products_take_their_input_as_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is lost by it under autocast; without, peft has to bring the input to the adapter's own format."""
    from peft.tuners.lora import Linear

    layout, seen = pack_groups(ROWS, True), []
    for autocast in (True, False):
        found = policy(folder, model__dtype="bfloat16", learner__method="lora", learner__autocast=autocast)
        move(found)
        layers = [module for module in found.model.modules() if isinstance(module, Linear)]
        handles = [m.lora_A["default"].register_forward_pre_hook(lambda _, x: seen.append(x[0].dtype)) for m in layers]
        cast_once = found.sequence_logprobs(layout)
        assert set(seen) == {torch.bfloat16 if autocast else torch.float32}
        seen.clear()
        for module, handle in zip(layers, handles, strict=True):
            monkeypatch.setattr(module, "cast_input_dtype_enabled", True)
            handle.remove()
        assert torch.equal(found.sequence_logprobs(layout), cast_once)


def test_published_tensors_are_a_snapshot(folder: Path) -> None:
    for method in ("full", "lora"):
        found = policy(folder, learner__method=method)
        published = found.published_tensors()
        kept = {name: tensor.clone() for name, tensor in published.items()}
        move(found)
        assert all(torch.equal(published[name], kept[name]) for name in kept)
        assert not all(torch.equal(tensor, kept[name]) for name, tensor in found.published_tensors().items())


def test_the_output_head_is_published_for_tied_models_too(folder: Path, untied: Path) -> None:
    tied = policy(folder, learner__method="full", model__dtype="bfloat16").published_tensors()
    assert torch.equal(tied["lm_head.weight"], tied["model.embed_tokens.weight"])
    separate = policy(untied, learner__method="full").published_tensors()
    assert not torch.equal(separate["lm_head.weight"], separate["model.embed_tokens.weight"])
    assert tied.keys() == separate.keys()
    assert {tensor.dtype for tensor in tied.values()} == {torch.bfloat16}
    pointers = [tensor.data_ptr() for tensor in tied.values()]
    assert len(set(pointers)) == len(pointers), "safetensors refuses tensors that share memory"


def test_an_adapter_is_published_with_its_configuration(folder: Path) -> None:
    found = policy(folder, learner__method="lora", learner__lora={"rank": 4})
    adapter = json.loads(found.adapter_config() or "")
    assert (adapter["r"], adapter["peft_type"]) == (4, "LORA")
    assert all("lora_" in name for name in found.published_tensors())
    assert policy(folder, learner__method="full").adapter_config() is None


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_saved_policy_loads_and_computes_the_same(folder: Path, tmp_path: Path, method: str) -> None:
    found = policy(folder, learner__method=method)
    move(found)
    expected = [plain(found.model, canary) for canary in CANARIES]
    found.save(tmp_path / "policy")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "policy", dtype=torch.float32)
    assert not [name for name, _ in loaded.named_parameters() if "lora" in name]
    start = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for canary, logprobs in zip(CANARIES, expected, strict=True):
        torch.testing.assert_close(plain(loaded, canary), logprobs, atol=1e-5, rtol=0)
        assert (plain(start, canary) - logprobs).abs().max() > 1e-3
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "policy")
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(folder).chat_template
    generated = loaded.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=4, do_sample=False)
    assert generated.shape[1] > 3


def test_a_policy_is_saved_in_the_models_own_format(folder: Path, tmp_path: Path) -> None:
    policy(folder, learner__method="full", model__dtype="bfloat16").save(tmp_path / "policy")
    assert json.loads((tmp_path / "policy" / "config.json").read_text())["dtype"] == "bfloat16"
