"""Trained models as scorers: reward models of one head or many, general preference models, pair classifiers.

Each reads texts with its own tokenizer and template, so the members of an ensemble need have nothing in common. An
input that is longer than the model's window is cut on the side that was stated, and counted; where none was stated,
its group is rejected.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from actors.models import ModelError, resolve_model
from actors.preference_inputs import ResponseTooLong
from actors.scorers.base import Messages, Rejection, ScorerError, Verdict
from actors.scorers.config import ModelScorerConfig
from actors.scorers.templates import read_template
from algorithms.ensembles import bradley_terry
from algorithms.preference import FloatArray, InvalidPreference

if TYPE_CHECKING:
    from actors.reward_models import PreferenceModel


class ModelScorer:
    """A model folder or id; what it is and which heads it has is known before its weights are read."""

    def __init__(self, name: str, config: ModelScorerConfig) -> None:
        """Raises: `ModelError` for a model that is missing or scores nothing, or that lacks a head."""
        from actors.reward_models import PAIR_FIELDS, RESPONSE_FIELDS, head_index, head_names

        self._config = config
        folder = _folder_config(config)
        kind = _kind(folder, config)
        self.pointwise = kind == "reward_model"
        self.members: tuple[str, ...] = (name,)
        self._columns: list[int] = []
        if self.pointwise:
            names = head_names(folder)
            chosen = range(len(names)) if config.heads is None else config.heads
            self._columns = [head_index(names, head) for head in chosen]
            if len(self._columns) > 1:
                self.members = tuple(f"{name}/{names[column]}" for column in self._columns)
        elif config.heads is not None:
            raise ScorerError(f"model {config.model!r} is a {kind}, which has no heads; leave out heads")
        fields = PAIR_FIELDS if kind == "pair_classifier" else RESPONSE_FIELDS
        self._template = read_template(config.template, fields) if config.template else None

    def load(self) -> None:
        """Read the weights."""
        _ = self._model

    def verdict(self, messages: Messages, responses: Sequence[str], seed: int) -> Verdict:
        """See `PreferenceScorer`."""
        before = self._model.encoder.truncated
        try:
            matrices, rewards = self._scored(messages, responses)
        except ResponseTooLong as error:
            raise Rejection(error.name, f"model {self.members[0]}: {error}") from error
        except ModelError as error:  # its chat template refuses the conversation
            raise Rejection("scorer_error", f"model {self.members[0]}: {error}") from error
        except InvalidPreference as error:
            raise Rejection("invalid_reward", f"model {self.members[0]}: {error}") from error
        return Verdict(matrices=matrices, rewards=rewards, cut=self._model.encoder.truncated - before)

    def _scored(self, messages: Messages, responses: Sequence[str]) -> tuple[FloatArray, FloatArray | None]:
        from actors.reward_models import RewardModel

        if not isinstance(self._model, RewardModel):
            return self._model.matrix(messages, responses)[None], None
        rewards = self._model.scores(messages, responses)[:, self._columns]
        return np.stack([bradley_terry(column) for column in rewards.T]), rewards

    @cached_property
    def _model(self) -> "PreferenceModel":
        from actors.reward_models import load_preference_model

        config = self._config
        return load_preference_model(
            config.model,
            template=self._template,
            window=config.window,
            truncation_side=config.truncation_side,
            dtype=config.dtype,
            token_budget=config.token_budget,
            trust_remote_code=config.trust_remote_code,
        )


def _folder_config(config: ModelScorerConfig) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(resolve_model(config.model), trust_remote_code=config.trust_remote_code)


def _kind(folder: Any, config: ModelScorerConfig) -> str:
    """What a folder's configuration says that it is.

    Raises: `ModelError` for a model that says nothing and is no sequence classifier.
    """
    from actors.reward_models import CONFIG_ENTRY, read_mark

    architectures = list(folder.architectures or [])
    classifies = config.trust_remote_code or any("Classification" in name for name in architectures)
    if getattr(folder, CONFIG_ENTRY, None) is None and not classifies:
        raise ModelError(
            f"model {config.model!r} is {' or '.join(architectures) or 'of an unknown kind'} without a classification "
            "head, so it scores nothing; train one with `python -m workflows.preference_model`, or name a sequence "
            "classifier"
        )
    return read_mark(folder).kind
