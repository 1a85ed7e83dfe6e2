"""An adapter adds scale * B A x to the rows that ask for it, in every slice of a layer, as it is now."""

from typing import Any

import pytest
import torch

from actors.lora_cpu import Factors, MatrixProductLora, rows_by_adapter

ADAPTERS, RANK, INPUTS, SLICES = 2, 3, 8, (6, 2, 4)
SCALE = 0.5


def stacked(seed: int) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """An adapter's weights as vLLM's layers hold them."""
    generator = torch.Generator().manual_seed(seed)
    a = tuple(torch.randn(ADAPTERS, 1, RANK, INPUTS, generator=generator) for _ in SLICES)
    b = tuple(torch.randn(ADAPTERS, 1, width, RANK, generator=generator) for width in SLICES)
    return a, b


def expected(y: torch.Tensor, x: torch.Tensor, a: Any, b: Any, indices: list[int]) -> torch.Tensor:
    """Row by row and slice by slice."""
    rows = []
    for row, adapter in enumerate(indices):
        parts = [SCALE * (bs[adapter, 0] @ (as_[adapter, 0] @ x[row])) for as_, bs in zip(a, b, strict=True)]
        rows.append(y[row] + (torch.cat(parts) if adapter >= 0 else 0))
    return torch.stack(rows)


def wrapper(indices: list[int]) -> MatrixProductLora:
    found = MatrixProductLora(max_num_batched_tokens=16, max_batches=16, device="cpu")
    found._token_rows = found._sampler_rows = rows_by_adapter(torch.tensor(indices))
    return found


@pytest.mark.parametrize("indices", [[0, 0, 0, 0], [1, 0, -1, 1], [-1, -1, -1, -1], [1, -1, -1, -1]])
def test_each_row_gets_its_own_adapter(indices: list[int]) -> None:
    (a, b), x, y = stacked(0), torch.randn(4, INPUTS), torch.randn(4, sum(SLICES))
    wanted = expected(y, x, a, b, indices)
    wrapper(indices).add_lora_linear(y, x, a, b, SCALE, SLICES)
    torch.testing.assert_close(y, wanted)


def test_new_weights_count_from_the_next_call_on() -> None:
    """vLLM writes them in place, often several times between two forward passes."""
    (a, b), lora, x = stacked(0), wrapper([0]), torch.randn(1, INPUTS)
    lora.add_lora_linear(torch.zeros(1, sum(SLICES)), x, a, b, SCALE, SLICES)
    for which, (old, new) in enumerate(zip((*a, *b), (*stacked(1)[0], *stacked(1)[1]), strict=True)):
        with torch.inference_mode(which % 2 == 0):
            old[0, 0].copy_(new[0, 0])
        y = torch.zeros(1, sum(SLICES))
        lora.add_lora_linear(y, x, a, b, SCALE, SLICES)
        torch.testing.assert_close(y, expected(torch.zeros(1, sum(SLICES)), x, a, b, [0]))


def test_the_matrices_are_made_once_while_nothing_is_written() -> None:
    factors, (a, b) = Factors(), stacked(0)
    first = factors.of(a, b, 0)
    assert all(left is right for left, right in zip(first, factors.of(a, b, 0), strict=True))
    assert not torch.equal(first[0], factors.of(a, b, 1)[0])


def test_an_output_head_without_an_adapter_stays_as_it_is() -> None:
    (a, b), x = stacked(0), torch.randn(2, INPUTS)
    y = torch.zeros(2, SLICES[0])
    wrapper([0, 0]).add_lora_logits(y, x, torch.zeros_like(a[0]), b[0], SCALE)
    assert not y.any()
    wrapper([0, 0]).add_lora_logits(y, x, a[0], b[0], SCALE)
    torch.testing.assert_close(y, SCALE * x @ a[0][0, 0].T @ b[0][0, 0].T)
