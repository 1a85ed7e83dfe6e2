"""Everything that can be wrong with a preference model's data is found here, before anything is trained."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from actors.models import resolve_model
from actors.preference_config import PreferenceModelConfig
from actors.preference_data import (
    Comparison,
    Counts,
    PreferenceDataError,
    Rating,
    Record,
    load_comparisons,
    load_ratings,
    split_by_prompt,
    turned_at_random,
)
from actors.preference_examples import attributes_of, build_encoder, example_of
from actors.preference_inputs import ResponseTooLong


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Records for training and held out, and what was found in the files."""

    train: Sequence[Record]
    heldout: Sequence[Record]
    facts: dict[str, Any]
    """For a reader: rows, what was left out, prompts, tokens, responses that are cut at the window."""


def check_inputs(config: PreferenceModelConfig) -> Inputs:
    """Load the data and let the model's tokenizer read all of it.

    Raises: `ModelError` or `PromptError`, each saying what was asked, found, and what to do.
    """
    records, counts = _load(config, config.data.train)
    facts: dict[str, Any] = {"file": config.data.train, **asdict(counts)}
    if config.data.heldout:
        train, (heldout, held) = records, _load(config, config.data.heldout)
        facts["heldout_file"] = {"file": config.data.heldout, **asdict(held)}
    else:
        train, heldout = split_by_prompt(records, config.data.heldout_share, config.seed)
    facts["prompts"] = {"train": _prompts(train), "heldout": _prompts(heldout)}
    facts["prompts"]["shared"] = _prompts(train) + _prompts(heldout) - _prompts([*train, *heldout])
    if config.data.ties == "drop":
        train = [record for record in train if not (isinstance(record, Comparison) and record.target == 0.5)]
    if not any(not isinstance(record, Comparison) or record.target != 0.5 for record in train):
        raise PreferenceDataError("none of the rows for training prefers a response; hold fewer out, or give more")
    facts |= {"train": len(train), "heldout": len(heldout), **_measure(config, [*train, *heldout], len(train))}
    return Inputs(train=train, heldout=heldout, facts=facts)


def _load(config: PreferenceModelConfig, path: str) -> tuple[Sequence[Record], Counts]:
    if config.objective.kind == "regression":
        return load_ratings(path)
    comparisons, counts = load_comparisons(path)
    if all(comparison.target == 1.0 for comparison in comparisons):
        # Columns `chosen` and `rejected`: which comes first says nothing, and may not look as if it did.
        comparisons = turned_at_random(comparisons, config.seed)
    return comparisons, counts


def _measure(config: PreferenceModelConfig, records: Sequence[Record], trained: int) -> dict[str, Any]:
    """Tokens of the rows for training, and how many responses of all are cut."""
    folder = resolve_model(config.model.name)
    encoder = build_encoder(config, folder)
    ratings = [record for record in records[:trained] if isinstance(record, Rating)]
    attributes = attributes_of(ratings) if ratings else None
    if attributes and any(isinstance(r, Rating) and tuple(r.scores) != attributes.names for r in records):
        raise PreferenceDataError(f"the held-out ratings have other attributes than {', '.join(attributes.names)}")
    pair, tokens = config.objective.kind == "pair_classifier", 0
    for number, record in enumerate(records):
        try:
            example = example_of(record, encoder, pair, attributes)
        except ResponseTooLong as error:
            asked = record.messages[-1]["content"][:60]
            raise PreferenceDataError(
                f"{error} (model.window, model.truncation_side). The prompt is {asked!r}"
            ) from None
        if number < trained:
            tokens += sum(len(row) for row in example.rows)
    return {"tokens": tokens, "truncated": encoder.truncated}


def _prompts(records: Sequence[Record]) -> int:
    return len({tuple((m["role"], m["content"]) for m in record.messages) for record in records})
