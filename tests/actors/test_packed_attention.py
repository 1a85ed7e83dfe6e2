"""Attention in blocks computes what separate rows do, forward and backward, and never looks into another group."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from actors.packed_attention import NAME, attend_in_blocks, inputs_of, packed_attention
from algorithms.layout import pack_groups
from tests.algorithms.test_layout import GROUPS, SAME_START, Groups, separate
from tests.tiny import make_model

CPU = torch.device("cpu")


def load(folder: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="sdpa").eval()


@pytest.fixture
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """The same model twice: with attention in blocks, and with the mask of a whole row."""
    folder = make_model(tmp_path_factory.mktemp("tiny"))
    blocked, masked = load(folder), load(folder)
    attend_in_blocks(blocked)
    return blocked, masked


def hidden(model: Any, groups: Any, share_prompts: bool = True) -> torch.Tensor:
    inputs = inputs_of(model, pack_groups(groups, share_prompts), CPU)
    assert ("blocks" in inputs) == (model.config._attn_implementation == NAME)
    found: torch.Tensor = model.base_model(**inputs).last_hidden_state[0]
    return found


@pytest.mark.parametrize("groups", [GROUPS, SAME_START])
@pytest.mark.parametrize("share_prompts", [True, False])
def test_a_row_equals_separate_rows(models: tuple[Any, Any], share_prompts: bool, groups: Groups) -> None:
    blocked, masked = models
    layout = pack_groups(groups, share_prompts)
    with torch.no_grad():
        logits = blocked.get_output_embeddings()(hidden(blocked, groups, share_prompts))
    found = logits.log_softmax(-1)[layout.predictor, layout.targets]
    torch.testing.assert_close(found, separate(masked, groups), rtol=0, atol=1e-9)


@pytest.mark.parametrize("groups", [GROUPS, SAME_START])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_the_masked_row(models: tuple[Any, Any], checkpointing: bool, groups: Groups) -> None:
    blocked, masked = models
    if checkpointing:
        blocked.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        blocked.train()
    for model in models:
        hidden(model, groups).square().sum().backward()
    for left, right in zip(blocked.base_model.parameters(), masked.base_model.parameters(), strict=True):
        torch.testing.assert_close(left.grad, right.grad, rtol=1e-9, atol=1e-9)


def test_nothing_of_another_group_is_looked_at(models: tuple[Any, Any]) -> None:
    """A product with a mask multiplies what it hides by zero, which spares no one from what is not a number."""
    poison, first = 99, len(GROUPS[0][0]) + sum(len(completion) for completion in GROUPS[0][1])
    groups = [GROUPS[0], ([poison], [[1, 2]])]
    with torch.no_grad():
        for model, clean in zip(models, (True, False), strict=True):
            model.get_input_embeddings().weight[poison] = torch.nan
            found = hidden(model, groups)
            assert found[:first].isfinite().all() == clean
            assert not found[first:].isfinite().any()


def test_without_blocks_it_is_the_usual_attention(models: tuple[Any, Any]) -> None:
    ids = torch.tensor([[5, 6, 7, 8]])
    mask = torch.ones(1, 1, 4, 4, dtype=torch.bool).tril()
    with torch.no_grad():
        left, right = (model(ids, attention_mask=mask).logits for model in models)
    torch.testing.assert_close(left, right, rtol=0, atol=0)


def test_in_bfloat16_it_is_computed_in_float32(models: tuple[Any, Any]) -> None:
    """Under autocast too, which would bring everything back to bfloat16."""
    heads, tokens, width = 2, 6, 16
    query, key, value = (torch.randn(1, heads, tokens, width, dtype=torch.bfloat16) for _ in range(3))
    module = models[0].base_model.layers[0].self_attn
    blocks = [(slice(0, 4), None), (slice(4, 6), None)]
    options: dict[str, Any] = {"blocks": blocks, "scaling": width**-0.5}
    wide, _ = packed_attention(module, query.float(), key.float(), value.float(), None, **options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = packed_attention(module, query, key, value, None, **options)
    assert torch.equal(found, wide.to(torch.bfloat16))
