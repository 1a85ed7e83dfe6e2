"""Forward passes of preference models, with gradients where they are enabled; training and scoring share them.

The head computes in float32 whatever the number format of the body: rewards matter by their differences.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from algorithms.packing import pad_batches

Rows = Sequence[Sequence[int]]
HEAD_NAMES = ("score", "classifier")
"""Where sequence classifiers keep their head."""


def classify(model: Any, rows: Rows, states: bool = False) -> Any:
    """A sequence classifier's output for N token sequences: `logits` [N, H] float32, and `hidden_states` on request.

    A decoder is read at the last token that is not its padding token; one without a padding token, at the last token.
    """
    padding = _padding(model, rows)
    inputs, mask = _padded(model, rows, padding, left=False)
    config = model.config.get_text_config()
    own = config.pad_token_id
    try:
        config.pad_token_id = padding
        return model(input_ids=inputs, attention_mask=mask, output_hidden_states=states)
    finally:
        config.pad_token_id = own


def label_logits(model: Any, rows: Rows, labels: tuple[int, int]) -> torch.Tensor:
    """A causal model's logits for two tokens as the next one of N token sequences, [N, 2] float32."""
    inputs, mask = _padded(model, rows, _padding(model, rows), left=True)
    # On the left, so that the next token of every row is in one column, and one column of logits is enough.
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    logits = model(input_ids=inputs, attention_mask=mask, position_ids=positions, logits_to_keep=1).logits
    wanted: torch.Tensor = logits[:, -1, list(labels)].float()
    return wanted


def in_batches(forward: Callable[[Rows], torch.Tensor], rows: Rows, token_budget: int) -> torch.Tensor:
    """What `forward` says of N rows, [N, ...] on the CPU, computed without gradients in passes of `token_budget`."""
    outputs: list[torch.Tensor] = [torch.empty(0)] * len(rows)
    with torch.inference_mode():
        for batch in pad_batches([len(row) for row in rows], token_budget):
            for place, output in zip(batch, forward([rows[i] for i in batch]).float().cpu(), strict=True):
                outputs[place] = output
    return torch.stack(outputs)


def float32_head(model: Any) -> Any:
    """Let the head of a sequence classifier compute in float32, under autocast too; returns it, none if unknown."""
    head = next((module for name in HEAD_NAMES if (module := getattr(model, name, None)) is not None), None)
    if head is None:
        return None
    head.float()
    compute = head.forward

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            output: torch.Tensor = compute(hidden.float())
        return output

    head.forward = forward
    return head


def _padding(model: Any, rows: Rows) -> int:
    """The model's padding token; where it has none, a token that ends none of the rows, so that all ends are read."""
    config = model.config.get_text_config()
    own: int | None = config.pad_token_id
    if own is not None:
        return own
    ends = {row[-1] for row in rows}
    return next(token for token in range(config.vocab_size) if token not in ends)


def _padded(model: Any, rows: Rows, padding: int, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both [N, T], on the model's device."""
    longest = max(len(row) for row in rows)
    fill = [longest - len(row) for row in rows]
    blank = [[padding] * count for count in fill]
    ids = [[*b, *row] if left else [*row, *b] for b, row in zip(blank, rows, strict=True)]
    mask = [
        [0] * count + [1] * len(row) if left else [1] * len(row) + [0] * count
        for count, row in zip(fill, rows, strict=True)
    ]
    return torch.tensor(ids, device=model.device), torch.tensor(mask, device=model.device)
