"""LoRA on CPU engines as matrix products.

vLLM's CPU kernels copy the whole adapter once for every token of a batch, which makes generation several times
slower than the bare model. Tokens of the same adapter are taken together here instead; the result is the same.
"""

from typing import Any

import torch
from vllm.lora.punica_wrapper import punica_cpu

Rows = list[tuple[int, torch.Tensor | None]]
"""(adapter, its rows); none stands for all rows of the batch."""


def rows_by_adapter(indices: torch.Tensor) -> Rows:
    """Rows of each adapter in a batch; -1 marks rows without one."""
    if len(indices) == 0:
        return []
    if bool((indices == indices[0]).all()):
        return [(int(indices[0]), None)] if indices[0] >= 0 else []
    return [(i, (indices == i).nonzero().flatten()) for i in indices.unique().tolist() if i >= 0]


def add_product(y: torch.Tensor, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float, rows: Rows) -> None:
    """y += scale * (x A^T) B^T for the rows of each adapter, in place.

    Shapes: y [n, out], x [n, in], a [adapters, 1, rank, in], b [adapters, 1, out, rank].
    """
    for adapter, selected in rows:
        down, up = a[adapter, 0], b[adapter, 0]
        if selected is None:
            y.addmm_((x @ down.T).to(y.dtype), up.T.to(y.dtype), alpha=scale)
        else:
            y.index_add_(0, selected, ((x[selected] @ down.T) @ up.T).to(y.dtype), alpha=scale)


class MatrixProductLora(punica_cpu.PunicaWrapperCPU):
    """vLLM's LoRA layer arithmetic, one matrix product an adapter."""

    def update_metadata(self, *arguments: Any, **options: Any) -> None:
        """Called by vLLM before every forward pass: which token has which adapter."""
        super().update_metadata(*arguments, **options)
        self._token_rows = rows_by_adapter(self.token_lora_indices)
        self._sampler_rows = rows_by_adapter(self.sampler_indices)

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **options: Any,
    ) -> None:
        """Add the adapters' part of a linear layer whose output consists of slices (as q, k and v)."""
        outputs, inputs = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        start = 0
        for a, b, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
            add_product(outputs[:, start : start + width], inputs, a, b, scale, self._token_rows)
            start += width

    def add_lora_logits(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        scale: float,
        **options: Any,
    ) -> None:
        """Add the adapters' part of the output head, where an adapter has one."""
        rows = [(adapter, selected) for adapter, selected in self._sampler_rows if bool(lora_a_stacked[adapter].any())]
        outputs = y.view(-1, y.shape[-1])
        add_product(outputs, x.view(-1, x.shape[-1]), lora_a_stacked, lora_b_stacked, scale, rows)


def install() -> None:
    """Make CPU engines of this process use it; called before the model is loaded."""
    punica_cpu.PunicaWrapperCPU = MatrixProductLora
