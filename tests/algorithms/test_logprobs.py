"""Chunked log-probabilities: the naive result and its gradients, without the naive memory."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from algorithms.logprobs import sequence_sums, token_logprobs


def inputs(tokens: int, width: int = 5, vocabulary: int = 11, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Hidden states, head weight, head bias (with gradients) and targets."""
    generator = torch.Generator().manual_seed(tokens)
    shapes = ((tokens, width), (vocabulary, width), (vocabulary,))
    leaves = [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]
    return [*leaves, torch.randint(vocabulary, (tokens,), generator=generator)]


def naive(hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, temperature: float) -> Tensor:
    logits = (hidden @ weight.T + bias) / temperature
    return torch.log_softmax(logits, dim=-1)[torch.arange(len(targets)), targets]


@given(st.integers(0, 9), st.integers(1, 10), st.floats(0.2, 3.0))
def test_values_and_all_gradients_equal_the_naive_form(tokens: int, chunk: int, temperature: float) -> None:
    hidden, weight, bias, targets = inputs(tokens)
    chunked = token_logprobs(hidden, weight, targets, temperature=temperature, chunk_tokens=chunk, head_bias=bias)
    expected = naive(hidden, weight, bias, targets, temperature)
    assert torch.allclose(chunked, expected, atol=1e-12)
    direction = torch.linspace(-1.0, 2.0, tokens, dtype=torch.float64)
    leaves = (hidden, weight, bias)
    found = torch.autograd.grad(chunked @ direction, leaves)
    for mine, theirs in zip(found, torch.autograd.grad(expected @ direction, leaves), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-12)


def test_finite_differences() -> None:
    hidden, weight, bias, targets = inputs(3)

    def function(h: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return token_logprobs(h, w, targets, temperature=0.7, chunk_tokens=2, head_bias=b)

    assert torch.autograd.gradcheck(function, (hidden, weight, bias))


class LargestOutput(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that any operation returned."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for output in result if isinstance(result, tuple | list) else (result,):
            if isinstance(output, Tensor):
                self.numel = max(self.numel, output.numel())
        return result


@pytest.mark.parametrize("gradients", [True, False])
def test_no_tensor_of_all_tokens_by_vocabulary_ever_exists(gradients: bool) -> None:
    tokens, chunk, vocabulary = 64, 8, 300
    hidden, weight, bias, targets = inputs(tokens, width=6, vocabulary=vocabulary, dtype=torch.float32)
    with LargestOutput() as watch, torch.set_grad_enabled(gradients):
        values = token_logprobs(hidden, weight, targets, chunk_tokens=chunk, head_bias=bias)
        if gradients:
            values.sum().backward()
    assert chunk * vocabulary == watch.numel < tokens * vocabulary
    with LargestOutput() as control:
        naive(hidden, weight, bias, targets, 1.0)
    assert control.numel == tokens * vocabulary


def test_the_forward_pass_keeps_no_logits_for_the_backward_pass() -> None:
    hidden, weight, bias, targets = inputs(64, width=6, vocabulary=300, dtype=torch.float32)
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        token_logprobs(hidden, weight, targets, chunk_tokens=8, head_bias=bias)
    assert sum(size for size in kept if size >= 8 * 300) == 0


def test_half_precision_inputs_are_reduced_in_float32() -> None:
    hidden, weight, _, targets = (tensor.detach() for tensor in inputs(20, dtype=torch.float32))
    exact = token_logprobs(hidden.bfloat16(), weight.bfloat16(), targets)
    assert exact.dtype == torch.float32
    logits = (hidden.bfloat16() @ weight.bfloat16().T).double()
    expected = torch.log_softmax(logits, dim=-1)[torch.arange(20), targets]
    assert torch.allclose(exact.double(), expected, atol=1e-5)


def test_only_adapters_below_the_head_need_gradients() -> None:
    hidden, weight, _, targets = inputs(6)
    frozen = weight.detach()
    token_logprobs(hidden, frozen, targets, chunk_tokens=4).sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.abs().sum() > 0
    assert not token_logprobs(hidden.detach(), frozen, targets).requires_grad


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"chunk_tokens": 0}])
def test_impossible_arguments_are_refused(options: dict[str, Any]) -> None:
    hidden, weight, _, targets = inputs(2)
    with pytest.raises(ValueError, match="temperature > 0 and chunk_tokens >= 1"):
        token_logprobs(hidden, weight, targets, **options)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(-100, 0)), max_size=20))
def test_sequence_sums(items: list[tuple[int, int]]) -> None:
    values = torch.tensor([float(value) for _, value in items], dtype=torch.bfloat16)
    ids = torch.tensor([segment for segment, _ in items], dtype=torch.int64)
    sums = sequence_sums(values, ids, 5)
    assert sums.dtype == torch.float32
    assert sums.tolist() == [sum(value for segment, value in items if segment == s) for s in range(5)]


def test_sequence_sums_pass_gradients_to_every_token_of_their_sequence() -> None:
    values = torch.zeros(4, requires_grad=True)
    (sequence_sums(values, torch.tensor([1, 0, 1, 2]), 3) @ torch.tensor([1.0, 10.0, 100.0])).backward()
    assert values.grad is not None
    assert values.grad.tolist() == [10.0, 1.0, 10.0, 100.0]
