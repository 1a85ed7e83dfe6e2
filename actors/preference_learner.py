"""One preference model under training: its losses, its updates, and the folder it is saved as.

An update does not depend on how its batch was cut into micro-batches or over data-parallel workers, but for rounding,
and follows from the seed and the number of the update alone.
"""

import math
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from actors.models import ModelError, load_tokenizer
from actors.policy import DTYPES
from actors.preference_config import ObjectiveKind, PreferenceModelConfig
from actors.preference_examples import Attributes, Example
from actors.preference_forward import HEAD_NAMES, Rows, classify, float32_head, in_batches, label_logits
from actors.records import derive_seed
from actors.reward_models import Kind, PreferenceMark, label_tokens
from actors.work import SumOverWorkers
from algorithms.packing import pad_batches
from algorithms.preference_losses import (
    bradley_terry,
    general_preference,
    goal_contrast,
    goal_positions,
    masked_squared_error,
    skew_score,
    smoothed,
    two_label,
)
from algorithms.schedules import learning_rate_factor

KINDS: dict[ObjectiveKind, Kind] = {
    "bradley_terry": "reward_model",
    "regression": "reward_model",
    "general_preference": "general_preference",
    "pair_classifier": "pair_classifier",
}
"""What a model that was trained on an objective is to those who load it."""


class PreferenceLearner:
    """Model, optimizer and schedule of one member; `update` advances them by one step."""

    def __init__(
        self,
        config: PreferenceModelConfig,
        folder: str,
        device: torch.device,
        *,
        member: int,
        steps: int,
        attributes: Attributes | None,
        features: dict[tuple[int, ...], Tensor] | None = None,
    ) -> None:
        """`features` is where inputs of the head are kept that a frozen body computed; members may share it."""
        self.step = 0
        self._config, self._steps, self._attributes = config, steps, attributes
        self._folder, self._device = folder, device
        self._seed = derive_seed(config.seed, "member", member)
        self._dtype = DTYPES[config.model.dtype]
        self._tokenizer = load_tokenizer(folder)
        self._labels = (
            label_tokens(self._tokenizer, config.objective.labels)
            if config.objective.kind == "pair_classifier"
            else None
        )
        torch.manual_seed(self._seed)
        self._head: Any = None
        self._adapted: Any = None
        self._model = self._build()
        self._features = {} if features is None else features
        training = config.training
        self._optimizer = torch.optim.AdamW(
            list(self.parameters().values()),
            lr=training.learning_rate,
            betas=training.betas,
            weight_decay=training.weight_decay,
        )

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """The trained parameters by name, in a fixed order."""
        return {name: p for name, p in self._model.named_parameters() if p.requires_grad}

    def update(self, examples: Sequence[Example], rank: int, workers: int, add: SumOverWorkers) -> dict[str, float]:
        """One step on a batch, of which this worker computes its share.

        Returns: `loss`, the mean over targets; `accuracy` over preferences, NaN where there are none; `gradient_norm`
        before clipping; `learning_rate`.
        """
        # For dropout; what the loss draws is the same whatever the worker.
        torch.manual_seed(derive_seed(self._seed, "update", self.step))
        drawn = torch.Generator().manual_seed(derive_seed(self._seed, "contrast", self.step))
        uniforms = torch.rand(len(examples), 3, self._config.objective.contrast_pairs, generator=drawn)[rank::workers]
        targets = max(sum(example.targets for example in examples), 1)
        own = examples[rank::workers]
        sums = torch.zeros(3, device=self._device)
        self._optimizer.zero_grad(set_to_none=False)
        for batch in pad_batches([example.tokens for example in own], self._config.training.token_budget):
            losses, logits = self._losses([own[i] for i in batch], uniforms[batch])
            (losses.sum() / targets).backward()
            sums[0] += losses.detach().sum()
            if logits is not None:
                sums[1:] += _hits(logits.detach(), [own[i] for i in batch])
        loss, hits, judged = add(sums).tolist()
        rate, norm = self._advance(add)
        return {
            "loss": loss / targets,
            "accuracy": hits / judged if judged else math.nan,
            "gradient_norm": norm,
            "learning_rate": rate,
        }

    def state(self) -> dict[str, Any]:
        """Everything a later process needs to go on bit for bit."""
        return {
            "step": self.step,
            "parameters": {name: p.detach().cpu() for name, p in self.parameters().items()},
            "optimizer": self._optimizer.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state()` of another process."""
        self.step = state["step"]
        with torch.no_grad():
            for name, parameter in self.parameters().items():
                parameter.copy_(state["parameters"][name])
        self._optimizer.load_state_dict(state["optimizer"])

    def save(self, folder: Path) -> None:
        """Write model and tokenizer as a folder that `load_preference_model` and transformers load; ends training."""
        # Adapters are merged in float32, before anything is rounded.
        model = self._model.float()
        if self._adapted is not None:
            model = self._adapted.merge_and_unload()
        model.to(self._dtype)
        if self._head is not None:
            self._head.float()
        self._mark().write(model.config)
        if self._labels is None:
            model.config.id2label = dict(enumerate(self._output_names()))
            model.config.label2id = {name: i for i, name in enumerate(self._output_names())}
        model.save_pretrained(folder)
        self._tokenizer.save_pretrained(folder)

    def _losses(self, examples: Sequence[Example], uniforms: Tensor) -> tuple[Tensor, Tensor | None]:
        """Loss of each example [B], and the logits of its preference [B] where it has one."""
        objective = self._config.objective
        given = torch.tensor([example.target for example in examples], device=self._device)
        margin = torch.tensor([example.margin for example in examples], device=self._device)
        target = smoothed(given[:, 0], objective.smoothing)
        rows = [row for example in examples for row in example.rows]
        with self._autocast():
            if self._labels is not None:
                labels = label_logits(self._model, rows, self._labels)
                logits = labels[:, 0] - labels[:, 1]
                return two_label(logits, target, margin), logits
            outputs, states = self._outputs(rows)
        if objective.kind == "regression":
            return masked_squared_error(outputs, given).sum(-1), None
        first, second = outputs[0::2], outputs[1::2]
        if objective.kind == "bradley_terry":
            logits = (first - second)[:, 0]
            losses = bradley_terry(logits, target, margin)
        else:
            logits = skew_score(first, second)
            losses = general_preference(logits, target, objective.temperature, margin)
        if states is not None:
            losses = losses + objective.contrast * _contrasts(examples, states, uniforms)
        return losses, logits

    def _outputs(self, rows: Rows) -> tuple[Tensor, Tensor | None]:
        """Outputs of the head [N, H], and the last hidden states [N, T, d] where the loss needs them."""
        if self._config.training.method == "head":
            self._remember(rows)
            features = torch.stack([self._features[tuple(row)] for row in rows]).to(self._device)
            outputs: Tensor = self._head(features)
            return outputs, None
        wanted = self._config.objective.contrast > 0
        result = classify(self._model, rows, states=wanted)
        return result.logits, result.hidden_states[-1].float() if wanted else None

    def _remember(self, rows: Rows) -> None:
        """Compute what the frozen body makes of the rows it has not seen."""
        new = list(dict.fromkeys(tuple(row) for row in rows if tuple(row) not in self._features))
        if not new:
            return
        head, self._head.forward = self._head.forward, lambda hidden: hidden
        try:
            budget = self._config.training.token_budget
            features = in_batches(lambda batch: classify(self._model, batch).logits, new, budget)
        finally:
            self._head.forward = head
        self._features.update(zip(new, features.clone(), strict=True))

    def _advance(self, add: SumOverWorkers) -> tuple[float, float]:
        """Take the step that the summed gradients ask for; returns learning rate and gradient norm."""
        training = self._config.training
        parameters = list(self.parameters().values())
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            add(parameter.grad)
        warmup = round(training.warmup_share * self._steps)
        rate = training.learning_rate * learning_rate_factor(self.step, self._steps, warmup, training.schedule)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        norm = torch.nn.utils.clip_grad_norm_(parameters, training.gradient_clip)
        self._optimizer.step()
        self.step += 1
        return rate, float(norm)

    def _autocast(self) -> torch.autocast:
        enabled = self._config.training.autocast and self._dtype != torch.float32
        return torch.autocast(self._device.type, dtype=self._dtype, enabled=enabled)

    def _output_names(self) -> tuple[str, ...]:
        objective = self._config.objective
        if self._attributes:
            return self._attributes.names
        if objective.kind == "general_preference":
            return tuple(f"dimension_{i}" for i in range(objective.dimensions))
        return ("reward",)

    def _mark(self) -> PreferenceMark:
        objective, model = self._config.objective, self._config.model
        return PreferenceMark(
            kind=KINDS[objective.kind],
            template=model.template,
            window=model.window,
            truncation_side=model.truncation_side,
            temperature=objective.temperature,
            labels=objective.labels,
            scale=self._attributes.scale if self._attributes else None,
            offset=self._attributes.offset if self._attributes else None,
        )

    def _build(self) -> Any:
        training = self._config.training
        model = self._load(torch.float32 if training.method == "full" else self._dtype)
        model.config.use_cache = False
        if model.config.pad_token_id is None:
            model.config.pad_token_id = self._tokenizer.pad_token_id
        if training.method != "full":
            model.requires_grad_(False)
        if training.method == "lora":
            self._adapted = self._adapt(model)
        if self._labels is None:
            self._head = float32_head(model)
            if self._head is None:
                raise ModelError(f"{type(model).__name__} has no head under any of the names {', '.join(HEAD_NAMES)}")
            self._head.requires_grad_(True)
        if training.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.enable_input_require_grads()
        # Dropout and checkpointing act only in training mode.
        return model.train(training.gradient_checkpointing or training.lora.dropout > 0)

    def _load(self, dtype: torch.dtype) -> Any:
        from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

        try:
            if self._labels is not None:
                model = AutoModelForCausalLM.from_pretrained(self._folder, dtype=dtype)
            else:
                count = len(self._output_names())
                model = AutoModelForSequenceClassification.from_pretrained(self._folder, num_labels=count, dtype=dtype)
        except (ValueError, RuntimeError) as error:
            raise ModelError(
                f"{self._folder!r} can't be the start of a {self._config.objective.kind.replace('_', ' ')}: "
                f"{str(error).splitlines()[0]}"
            ) from error
        return model.to(self._device)

    def _adapt(self, model: Any) -> Any:
        from peft import LoraConfig, get_peft_model

        lora = self._config.training.lora
        adapter = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=lora.targets if isinstance(lora.targets, str) else list(lora.targets),
            # The head is trained itself, and so needs no adapter.
            exclude_modules=list(HEAD_NAMES) if self._labels is None else None,
        )
        return get_peft_model(model, adapter)


def _contrasts(examples: Sequence[Example], states: Tensor, uniforms: Tensor) -> Tensor:
    """The goal-conditioned term of each comparison [B]; 0 for a tie. An answer begins where both rows first differ."""
    terms = []
    for b, (example, drawn) in enumerate(zip(examples, uniforms, strict=True)):
        if example.target[0] == 0.5:
            terms.append(states.new_zeros(()))
            continue
        first, second = example.rows
        begin = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))
        begin = min(begin, len(first) - 1, len(second) - 1)
        answers = [states[2 * b + side, begin : len(row)] for side, row in enumerate(example.rows)]
        chosen, rejected = answers if example.target[0] > 0.5 else answers[::-1]
        source, goal, other = goal_positions(len(chosen), len(rejected), drawn)
        terms.append(goal_contrast(chosen[source], chosen[goal], rejected[other]))
    return torch.stack(terms)


def _hits(logits: Tensor, examples: Sequence[Example]) -> Tensor:
    """How many preferences the logits [B] name right, and how many there are, [2]."""
    wanted = torch.tensor([example.target[0] - 0.5 for example in examples], device=logits.device)
    return torch.stack([(logits * wanted > 0).sum(), (wanted != 0).sum()])
