"""Attention over a packed row, group by group: its cost grows with the sum of the squares of the groups' lengths.

As one masked product over the whole row it would grow with the square of their sum, which on rows of a thousand tokens
was two fifths of an update. What is computed is the same. Each group looks at the row's shared prefix too.
"""

from collections.abc import Sequence
from typing import Any

import torch

from algorithms.layout import Block, Layout

NAME = "nashloop_packed"


def attend_in_blocks(model: Any) -> None:
    """Let a Transformers model take `inputs_of` a packed row; one whose attention can't be exchanged stays as it is."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)
    if getattr(model, "_supports_attention_backend", False):
        model.set_attn_implementation(NAME)


def inputs_of(model: Any, layout: Layout, device: torch.device) -> dict[str, Any]:
    """What the body of a model is called with for one packed row."""
    inputs = {
        "input_ids": layout.input_ids.to(device)[None],
        "position_ids": layout.positions.to(device)[None],
        "use_cache": False,
    }
    if model.config._attn_implementation != NAME:
        return inputs | {"attention_mask": layout.attention_mask().to(device)[None, None]}
    blocks = [(place, mask if mask is None else mask.to(device)[None, None]) for place, mask in layout.blocks()]
    return inputs | {"blocks": blocks}


def packed_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    blocks: Sequence[Block] | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Transformers' scaled dot product attention within each block: [1, H, T, d] each -> [1, T, H, d]."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if blocks is None:
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return output, None
    if query.device.type != "cpu" or query.dtype != torch.bfloat16:
        return _in_blocks(module, query, key, value, blocks, options), None
    # On CPU attention in bfloat16 takes twice the time of attention in float32, to which autocast would not leave it.
    with torch.autocast("cpu", enabled=False):
        output = _in_blocks(module, query.float(), key.float(), value.float(), blocks, options)
        return output.to(query.dtype), None


def _in_blocks(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    blocks: Sequence[Block],
    options: dict[str, Any],
) -> torch.Tensor:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    parts = []
    for at, mask in blocks:
        prefix = 0 if mask is None else mask.shape[-1] - (at.stop - at.start)
        keys, values = (
            torch.cat([x[:, :, :prefix], x[:, :, at]], dim=2) if prefix else x[:, :, at] for x in (key, value)
        )
        parts.append(sdpa_attention_forward(module, query[:, :, at], keys, values, mask, **options)[0])
    return torch.cat(parts, dim=1)
