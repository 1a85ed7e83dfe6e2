"""A packed row with shared prompts computes what separate rows compute, token by token."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from algorithms.layout import Layout, pack_groups
from tests.tiny import make_model

Groups = list[tuple[list[int], list[list[int]]]]

GROUPS: Groups = [
    ([5, 6, 7, 8, 9], [[10, 11, 12], [13], [10, 11, 200, 201, 202, 3]]),
    ([40, 41], [[42, 43], [], [44, 45, 46]]),
    ([5, 6, 7], [[10, 11, 12]]),
]

SAME_START: Groups = [([1, 2, 3, *prompt], completions) for prompt, completions in GROUPS]

tokens = st.lists(st.integers(0, 99), max_size=5)
prompts = st.lists(st.integers(0, 1), min_size=1, max_size=5)
any_groups = st.lists(st.tuples(prompts, st.lists(tokens, min_size=1, max_size=3)), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = make_model(tmp_path_factory.mktemp("tiny"))
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="sdpa").eval()


@torch.no_grad()
def separate(model: Any, groups: Groups) -> torch.Tensor:
    """Log-probabilities of all completion tokens, one plain forward pass a completion."""
    found = []
    for prompt, completions in groups:
        for completion in completions:
            logprobs = model(torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
            for place, token in enumerate(completion, start=len(prompt)):
                found.append(logprobs[place - 1, token])
    return torch.stack(found)


@torch.no_grad()
def packed(model: Any, layout: Layout, with_mask: bool) -> torch.Tensor:
    """The same from one row."""
    logits = model(
        layout.input_ids[None],
        position_ids=layout.positions[None],
        attention_mask=layout.attention_mask()[None, None] if with_mask else None,
        use_cache=False,
    ).logits[0]
    logprobs: torch.Tensor = logits.log_softmax(-1)[layout.predictor, layout.targets]
    return logprobs


@pytest.mark.parametrize("groups", [GROUPS, SAME_START])
@pytest.mark.parametrize(("share_prompts", "with_mask"), [(True, True), (False, True), (False, False)])
def test_a_packed_row_equals_separate_rows(model: Any, share_prompts: bool, with_mask: bool, groups: Groups) -> None:
    found = packed(model, pack_groups(groups, share_prompts), with_mask)
    torch.testing.assert_close(found, separate(model, groups), rtol=0, atol=1e-9)


def test_what_all_prompts_begin_with_is_computed_once() -> None:
    assert pack_groups(SAME_START, share_prompts=True).prefix == 3
    assert pack_groups(SAME_START, share_prompts=False).prefix == 0
    assert pack_groups(SAME_START[:1], share_prompts=True).prefix == 0
    assert pack_groups([([1, 2], [[3]])] * 2, share_prompts=True).prefix == 1


def test_shared_prompts_need_the_mask(model: Any) -> None:
    found = packed(model, pack_groups(GROUPS, share_prompts=True), with_mask=False)
    assert (found - separate(model, GROUPS)).abs().max() > 1e-3


@given(any_groups)
def test_both_layouts_name_the_same_sequences(groups: Groups) -> None:
    shared, repeated = pack_groups(groups, True), pack_groups(groups, False)
    for layout in (shared, repeated):
        expected = [(s, token) for s, y in enumerate(y for _, ys in groups for y in ys) for token in y]
        assert list(zip(layout.sequence.tolist(), layout.targets.tolist(), strict=True)) == expected
        assert layout.sequences == sum(len(completions) for _, completions in groups)
        assert len(layout.input_ids) == len(layout.positions) == len(layout.group) == len(layout.branch)
    completion_tokens = sum(len(y) for _, ys in groups for y in ys)
    prompt_tokens = sum(len(prompt) for prompt, _ in groups) - (len(groups) - 1) * shared.prefix
    assert len(shared.input_ids) == prompt_tokens + completion_tokens
    assert len(repeated.input_ids) == sum(len(prompt) * len(ys) for prompt, ys in groups) + completion_tokens


@given(any_groups, st.booleans())
def test_what_a_token_sees_is_its_own_sequence_up_to_itself(groups: Groups, share_prompts: bool) -> None:
    layout = pack_groups(groups, share_prompts)
    mask = layout.attention_mask()
    texts = [(prompt, y) for prompt, ys in groups for y in ys]
    seen_by_sequence: dict[int, int] = {}
    for n, place in enumerate(layout.predictor.tolist()):
        prompt, completion = texts[int(layout.sequence[n])]
        done = seen_by_sequence.get(int(layout.sequence[n]), 0)
        visible = mask[place].nonzero().squeeze(-1)
        assert layout.input_ids[visible].tolist() == prompt + completion[:done]
        assert layout.positions[visible].tolist() == list(range(len(prompt) + done))
        seen_by_sequence[int(layout.sequence[n])] = done + 1
    assert mask.diagonal().all()
    assert not mask.triu(1).any()


def test_an_empty_completion_is_a_sequence_without_tokens() -> None:
    layout = pack_groups([([1, 2], [[], [3]])], share_prompts=True)
    assert layout.sequences == 2
    assert layout.sequence.tolist() == [1]
    assert layout.predictor.tolist() == [1]
