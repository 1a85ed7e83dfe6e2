"""From records of preferences to what a model reads and is told: rows of tokens, targets, margins."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from actors.models import load_tokenizer
from actors.preference_config import PreferenceModelConfig
from actors.preference_data import Rating, Record
from actors.preference_inputs import PAIR_TEMPLATE, Encoder
from actors.reward_models import PAIR_FIELDS, RESPONSE_FIELDS, fitting_window, label_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A record as the model reads it: one row of tokens, or two that are compared."""

    rows: tuple[tuple[int, ...], ...]
    target: tuple[float, ...]
    """P(first > second), or the scores of all attributes; NaN where one is missing."""
    margin: float = 0.0

    @property
    def tokens(self) -> int:
        """Tokens with the padding that its own rows need."""
        return len(self.rows) * max(len(row) for row in self.rows)

    @property
    def targets(self) -> int:
        """How many errors it has."""
        return sum(not math.isnan(value) for value in self.target)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """Names of a regression's outputs, and how their data become numbers around 0: (score - offset) / scale."""

    names: tuple[str, ...]
    offset: tuple[float, ...]
    scale: tuple[float, ...]


def attributes_of(ratings: Sequence[Rating]) -> Attributes:
    """Mean and standard deviation of every attribute over the ratings that have it."""
    columns = {name: [r.scores[name] for r in ratings if not math.isnan(r.scores[name])] for name in ratings[0].scores}
    means = {name: math.fsum(values) / len(values) for name, values in columns.items()}
    deviations = [
        math.sqrt(math.fsum((value - means[name]) ** 2 for value in values) / len(values))
        for name, values in columns.items()
    ]
    return Attributes(
        names=tuple(columns), offset=tuple(means.values()), scale=tuple(deviation or 1.0 for deviation in deviations)
    )


def build_encoder(config: PreferenceModelConfig, folder: str) -> Encoder:
    """The reader of the model's inputs.

    Raises: `ModelError` for a template, a window or labels that the model can't have.
    """
    from transformers import AutoConfig

    tokenizer, model = load_tokenizer(folder), config.model
    pair = config.objective.kind == "pair_classifier"
    if pair:
        label_tokens(tokenizer, config.objective.labels)
    return Encoder(
        tokenizer,
        template=(model.template or PAIR_TEMPLATE) if pair else model.template,
        fields=PAIR_FIELDS if pair else RESPONSE_FIELDS,
        window=fitting_window(AutoConfig.from_pretrained(folder), tokenizer, model.window),
        side=model.truncation_side,
    )


def example_of(record: Record, encoder: Encoder, pair: bool, attributes: Attributes | None) -> Example:
    """A record in token ids; `pair` asks for both responses in one row.

    Raises: `ResponseTooLong`.
    """
    if isinstance(record, Rating):
        assert attributes is not None
        units = zip(record.scores.values(), attributes.offset, attributes.scale, strict=True)
        return Example(
            rows=(tuple(encoder.response(record.messages, record.response)),),
            target=tuple((score - offset) / scale for score, offset, scale in units),
        )
    rows: tuple[tuple[int, ...], ...]
    if pair:
        rows = (tuple(encoder.pair(record.messages, record.first, record.second)),)
    else:
        rows = tuple(tuple(encoder.response(record.messages, text)) for text in (record.first, record.second))
    return Example(rows=rows, target=(record.target,), margin=record.margin)
