"""Trained preference models as scorers: any sequence classifier, a general preference model, a pair classifier.

A model is a Hugging Face folder or id. What `workflows.preference_model` trains says in its `config.json`, under
`nashloop`, what it is and how it was fed (`PreferenceMark`); a sequence classifier without that entry is a reward
model. Scores of a response do not depend on what else is in its batch, except by rounding.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy.special import expit

from actors.component import Component
from actors.models import ModelError, load_tokenizer, resolve_model
from actors.policy import DTYPES
from actors.preference_forward import classify, float32_head, in_batches, label_logits
from actors.preference_inputs import PAIR_TEMPLATE, Encoder, Messages, Side
from algorithms.preference import antisymmetric
from algorithms.preference_losses import skew_scores

Kind = Literal["reward_model", "general_preference", "pair_classifier"]
Matrix = NDArray[np.float64]

CONFIG_ENTRY = "nashloop"
RESPONSE_FIELDS = ("prompt", "response")
PAIR_FIELDS = ("prompt", "first", "second")


class PreferenceMark(Component):
    """What a trained folder says of itself in its `config.json`."""

    kind: Kind
    template: str | None = None
    window: int | None = None
    truncation_side: Side | None = None
    temperature: float = 1.0
    """Divides the scores of a general preference model."""
    labels: tuple[str, str] = ("A", "B")
    """Tokens with which a pair classifier names the response shown first, and second."""
    scale: tuple[float, ...] | None = None
    offset: tuple[float, ...] | None = None
    """Take a regression's outputs back to the units of its data: scale * output + offset."""

    def write(self, config: Any) -> None:
        """Put it into a model's configuration, which `save_pretrained` writes."""
        setattr(config, CONFIG_ENTRY, self.model_dump(mode="json"))


def read_mark(config: Any) -> PreferenceMark:
    """What a model's configuration says of itself; one that says nothing is a reward model.

    Raises: `ModelError` where it says what this version does not know.
    """
    try:
        return PreferenceMark.model_validate(getattr(config, CONFIG_ENTRY, None) or {"kind": "reward_model"})
    except ValidationError as error:
        fault = error.errors()[0]
        raise ModelError(
            f"config.json of {config.name_or_path!r} has an entry {CONFIG_ENTRY!r} that can't be read "
            f"({'.'.join(map(str, fault['loc']))}: {fault['msg']}); was it written by another version?"
        ) from None


class RewardModel:
    """A sequence classifier with one output or several; with one, its rewards are compared by Bradley-Terry."""

    def __init__(
        self, model: Any, encoder: Encoder, mark: PreferenceMark, *, head: str | int | None, token_budget: int
    ) -> None:
        names = head_names(model.config)
        self._chosen = range(len(names)) if head is None else [head_index(names, head)]
        self.heads = tuple(names[i] for i in self._chosen)
        self.encoder = encoder
        self._model, self._budget = model, token_budget
        self._scale = np.array(mark.scale or [1.0] * len(names))
        self._offset = np.array(mark.offset or [0.0] * len(names))

    def scores(self, prompt: Messages, responses: Sequence[str]) -> Matrix:
        """Rewards of K responses, [K, H], one column a name in `heads`, in the units the model was trained on."""
        outputs = _outputs(self._model, self.encoder, self._budget, prompt, responses).numpy()
        scores: Matrix = (outputs * self._scale + self._offset)[:, self._chosen]
        return scores

    def matrix(self, prompt: Messages, responses: Sequence[str]) -> Matrix:
        """P(i > j) = sigma(r_i - r_j), [K, K].

        Raises: `ModelError` for a model with several heads, of which none was chosen.
        """
        if len(self.heads) > 1:
            raise ModelError(f"this model has the heads {', '.join(self.heads)}; choose the one that is compared")
        rewards = self.scores(prompt, responses)[:, 0]
        return _probabilities(rewards[:, None] - rewards[None, :])


class GeneralPreferenceModel:
    """A skew-symmetric embedding, which can express cycles. Zhang et al. 2410.02197."""

    def __init__(self, model: Any, encoder: Encoder, mark: PreferenceMark, *, token_budget: int) -> None:
        self.encoder = encoder
        self._model, self._budget, self._temperature = model, token_budget, mark.temperature

    def matrix(self, prompt: Messages, responses: Sequence[str]) -> Matrix:
        """P(i > j) = sigma(s(i > j) / tau), [K, K], from K forward passes; exactly 1/2 on the diagonal."""
        embeddings = _outputs(self._model, self.encoder, self._budget, prompt, responses)
        return _probabilities((skew_scores(embeddings) / self._temperature).numpy())


class PairClassifier:
    """A causal language model that is asked which of two responses is better; both orders are averaged."""

    def __init__(
        self, model: Any, encoder: Encoder, mark: PreferenceMark, label_ids: tuple[int, int], *, token_budget: int
    ) -> None:
        self.encoder = encoder
        self.labels = mark.labels
        self._model, self._budget, self._label_ids = model, token_budget, label_ids

    def matrix(self, prompt: Messages, responses: Sequence[str]) -> Matrix:
        """P(i > j) = (p_ij + 1 - p_ji) / 2 with p of `orders`, [K, K]."""
        # Both orders are averaged: that they disagree is position bias, and no error.
        return antisymmetric(self.orders(prompt, responses), tolerance=1.0)

    def orders(self, prompt: Messages, responses: Sequence[str]) -> Matrix:
        """Probability that response i is preferred when it is shown first and j second, [K, K]; 1/2 for i = j."""
        count = len(responses)
        pairs = [(i, j) for i in range(count) for j in range(count) if i != j]
        ids = [self.encoder.pair(prompt, responses[i], responses[j]) for i, j in pairs]
        logits = in_batches(lambda rows: label_logits(self._model, rows, self._label_ids), ids, self._budget)
        raw = np.full((count, count), 0.5)
        for (i, j), probability in zip(pairs, torch.softmax(logits.double(), -1)[:, 0].tolist(), strict=True):
            raw[i, j] = probability
        return raw


PreferenceModel = RewardModel | GeneralPreferenceModel | PairClassifier


def load_preference_model(
    folder: str,
    *,
    head: str | int | None = None,
    template: str | None = None,
    window: int | None = None,
    truncation_side: Side | None = None,
    dtype: str = "float32",
    device: str | None = None,
    token_budget: int = 4096,
    trust_remote_code: bool = False,
) -> PreferenceModel:
    """Load the scorer in `folder`, a model folder or hub id; what is not given follows the folder's own entry.

    `head`: name or number of the one output to use. `template`: see `preference_inputs`. `window`: longest input in
    tokens, by default as many as the model has positions; a longer input is cut on `truncation_side` and counted in
    `encoder.truncated`, or refused where that is none. `token_budget`: tokens of one forward pass, padding included.
    Raises: `ModelError` for a model that is missing, has no head for this, or not that head.
    """
    from transformers import AutoConfig

    path = resolve_model(folder)
    config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    mark = read_mark(config)
    tokenizer = load_tokenizer(path)
    pair = mark.kind == "pair_classifier"
    template = template or mark.template
    encoder = Encoder(
        tokenizer,
        template=(template or PAIR_TEMPLATE) if pair else template,
        fields=PAIR_FIELDS if pair else RESPONSE_FIELDS,
        window=fitting_window(config, tokenizer, window or mark.window),
        side=truncation_side or mark.truncation_side,
    )
    if head is not None and mark.kind != "reward_model":
        raise ModelError(f"{folder} is a {mark.kind.replace('_', ' ')}, which has no heads; leave out head = {head!r}")
    model = _load(path, pair, dtype, trust_remote_code)
    model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()
    if pair:
        return PairClassifier(model, encoder, mark, label_tokens(tokenizer, mark.labels), token_budget=token_budget)
    if mark.kind == "general_preference":
        return GeneralPreferenceModel(model, encoder, mark, token_budget=token_budget)
    return RewardModel(model, encoder, mark, head=head, token_budget=token_budget)


def head_names(config: Any) -> tuple[str, ...]:
    """Names of a classifier's outputs; `head_0` and so on where its configuration gives none."""
    names = [config.id2label.get(i, f"LABEL_{i}") for i in range(config.num_labels)]
    return tuple(f"head_{i}" if name == f"LABEL_{i}" else str(name) for i, name in enumerate(names))


def head_index(names: Sequence[str], head: str | int) -> int:
    """Place of the head with this name or number among `names`.

    Raises: `ModelError` that lists what there is.
    """
    if isinstance(head, int) and 0 <= head < len(names):
        return head
    if head in names:
        return list(names).index(str(head))
    listed = ", ".join(f"{i} {name}" for i, name in enumerate(names))
    raise ModelError(f"head {head!r} was asked for, and this model has {listed}; name one of them, by name or number")


def label_tokens(tokenizer: Any, labels: Sequence[str]) -> tuple[int, int]:
    """The two tokens that stand for a pair classifier's verdicts.

    Raises: `ModelError` where a label is not one token, or both are the same.
    """
    ids = [tokenizer.encode(label, add_special_tokens=False) for label in labels]
    if len(ids) != 2 or any(len(tokens) != 1 for tokens in ids) or ids[0] == ids[1]:
        raise ModelError(
            f"labels {list(labels)} are the tokens {ids} of this tokenizer; give two labels of one token each"
        )
    return ids[0][0], ids[1][0]


def fitting_window(config: Any, tokenizer: Any, window: int | None) -> int | None:
    """The window in tokens, by default all that model and tokenizer hold; none where nothing limits it.

    Raises: `ModelError` where the window asked for is longer.
    """
    stated = (getattr(config.get_text_config(), "max_position_embeddings", None), tokenizer.model_max_length)
    # Tokenizers without a limit state an astronomical one.
    limit = min((tokens for tokens in stated if tokens and tokens < 10**9), default=None)
    if window and limit and window > limit:
        raise ModelError(
            f"window = {window} tokens, but {tokenizer.name_or_path!r} has {limit} positions; set it to that or less"
        )
    return window or limit


def _load(path: str, pair: bool, dtype: str, trust_remote_code: bool) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    kind = AutoModelForCausalLM if pair else AutoModelForSequenceClassification
    options = {"dtype": DTYPES[dtype], "trust_remote_code": trust_remote_code, "output_loading_info": True}
    try:
        # Transformers would make up a missing head at random, with no more than a warning.
        model, info = kind.from_pretrained(path, **options)
    except ValueError as error:
        raise ModelError(f"{path!r} can't be loaded as a sequence classifier: {str(error).splitlines()[0]}") from error
    if missing := sorted(info["missing_keys"]):
        raise ModelError(
            f"{path!r} is {' or '.join(model.config.architectures or ['of an unknown kind'])} without a classification "
            f"head (it lacks {', '.join(missing[:3])}); train one with `python -m workflows.preference_model`, or give "
            "a model that was saved with its head"
        )
    if not pair:
        float32_head(model)
    return model


def _outputs(
    model: Any, encoder: Encoder, token_budget: int, prompt: Messages, responses: Sequence[str]
) -> torch.Tensor:
    """A classifier's outputs for K responses, [K, H] float64."""
    ids = [encoder.response(prompt, response) for response in responses]
    return in_batches(lambda rows: classify(model, rows).logits, ids, token_budget).double()


def _probabilities(logits: Matrix) -> Matrix:
    """sigma of antisymmetric scores, [K, K], exactly antisymmetric around 1/2."""
    return antisymmetric(expit(logits), tolerance=1e-9)
