"""LoRA on CPU engines as matrix products.

vLLM's CPU kernels copy the whole adapter once for every token of a batch, which makes generation several times
slower than the bare model. Tokens of the same adapter are taken together here instead; the result is the same.
"""

from typing import Any

import torch
from vllm.lora.punica_wrapper import punica_cpu

Rows = list[tuple[int, torch.Tensor | None]]
"""(adapter, its rows); none stands for all rows of the batch."""

Slices = tuple[torch.Tensor, ...]
"""vLLM's weights of the slices of a linear layer (as q, k and v), each [adapters, 1, out, in]."""


def rows_by_adapter(indices: torch.Tensor) -> Rows:
    """Rows of each adapter in a batch; -1 marks rows without one."""
    if len(indices) == 0:
        return []
    if bool((indices == indices[0]).all()):
        return [(int(indices[0]), None)] if indices[0] >= 0 else []
    return [(i, (indices == i).nonzero().flatten()) for i in indices.unique().tolist() if i >= 0]


class Factors:
    """An adapter's two matrices for all slices of a layer: two products then do what two a slice would."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, int], tuple[list[int], torch.Tensor, torch.Tensor]] = {}

    def of(self, a: Slices, b: Slices, adapter: int) -> tuple[torch.Tensor, torch.Tensor]:
        """[in, slices x rank] and [slices x rank, out], made again whenever vLLM has written to the adapter."""
        versions = [part._version for part in (*a, *b)]
        kept = self._kept.get((id(a[0]), adapter))
        if kept is None or kept[0] != versions:
            down = torch.cat([part[adapter, 0] for part in a]).T.contiguous()
            up = torch.block_diag(*(part[adapter, 0] for part in b)).T.contiguous()
            kept = self._kept[id(a[0]), adapter] = (versions, down, up)
        return kept[1:]


def add_product(
    y: torch.Tensor, x: torch.Tensor, down: torch.Tensor, up: torch.Tensor, scale: float, rows: torch.Tensor | None
) -> None:
    """y += scale * (x down) up in place, in all rows or in the chosen ones: [n, out], [n, in], [in, r], [r, out]."""
    if rows is None:
        y.addmm_((x @ down).to(y.dtype), up.to(y.dtype), alpha=scale)
    else:
        y.index_add_(0, rows, ((x[rows] @ down) @ up).to(y.dtype), alpha=scale)


class MatrixProductLora(punica_cpu.PunicaWrapperCPU):
    """vLLM's LoRA layer arithmetic, as products of whole matrices."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._factors = Factors()

    def update_metadata(self, *arguments: Any, **options: Any) -> None:
        """Called by vLLM before every forward pass: which token has which adapter."""
        super().update_metadata(*arguments, **options)
        self._token_rows = rows_by_adapter(self.token_lora_indices)
        self._sampler_rows = rows_by_adapter(self.sampler_indices)

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: Slices,
        lora_b_stacked: Slices,
        scale: float,
        output_slices: tuple[int, ...],
        **options: Any,
    ) -> None:
        """Add the adapters' part of a linear layer whose output consists of slices."""
        outputs, inputs = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        for adapter, rows in self._token_rows:
            add_product(outputs, inputs, *self._factors.of(lora_a_stacked, lora_b_stacked, adapter), scale, rows)

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
        outputs, inputs = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        for adapter, rows in self._sampler_rows:
            if bool(lora_a_stacked[adapter].any()):
                factors = self._factors.of((lora_a_stacked,), (lora_b_stacked,), adapter)
                add_product(outputs, inputs, *factors, scale, rows)


def install() -> None:
    """Make CPU engines of this process use it; called before the model is loaded."""
    punica_cpu.PunicaWrapperCPU = MatrixProductLora
