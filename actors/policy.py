"""The policy as the learner holds it: log-probabilities of completions, the frozen reference, and its tensors.

Full fine-tuning keeps float32 weights and a frozen copy as reference; LoRA keeps the base frozen in the model's
format, trains float32 adapters, and the base under the adapter is the reference.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from actors.config import AlignConfig
from actors.models import ModelError, load_tokenizer
from actors.packed_attention import attend_in_blocks, inputs_of
from actors.publication import LEARNER_TOKENS, Canary
from algorithms.layout import Layout, pack_groups
from algorithms.logprobs import sequence_sums, token_logprobs

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Policy:
    """A causal language model under training, and its reference."""

    def __init__(self, config: AlignConfig, folder: str, device: torch.device) -> None:
        self._config = config
        self._folder = folder
        self.device = device
        self.dtype = DTYPES[config.model.dtype]
        self._half = config.learner.autocast and self.dtype != torch.float32
        allowed = config.rollout.allowed_tokens
        self._allowed = None if allowed is None else torch.tensor(sorted(allowed), device=device)
        torch.manual_seed(config.seed)
        if config.learner.method == "lora":
            self.model = self._load(self.dtype)
            self.adapted: Any = self._adapt()
            self.reference: Any = None
        else:
            self.model = self._load(torch.float32)
            self.adapted = None
            self.reference = self._load(self.dtype).requires_grad_(False)
        if config.learner.gradient_checkpointing:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            self.model.enable_input_require_grads()
        # Dropout and checkpointing act only in training mode.
        self.model.train(config.learner.gradient_checkpointing or config.learner.lora.dropout > 0)

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """The trained parameters by name, in a fixed order."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def sequence_logprobs(self, layout: Layout, reference: bool = False) -> torch.Tensor:
        """Sum of log-probabilities of each completion, [S] float32, in nats.

        `reference` asks the frozen reference, without gradients.
        """
        with contextlib.ExitStack() as stack:
            model = stack.enter_context(self._reference()) if reference else self.model
            values = self._token_logprobs(model, layout, self._config.rollout.temperature)
            return sequence_sums(values, layout.sequence.to(self.device), layout.sequences)

    def canary_logprobs(self, canaries: Sequence[Canary]) -> tuple[dict[int, float], ...]:
        """This policy's most likely next tokens after each canary, in nats, at temperature 1."""
        layout = pack_groups([(canary, [canary[:1]]) for canary in canaries], self._config.learner.share_prompts)
        training = self.model.training
        # Engines know no dropout.
        self.model.eval()
        with torch.no_grad(), self._autocast():
            hidden = self._hidden(self.model, layout)[layout.predictor.to(self.device)]
            logprobs = self.model.get_output_embeddings()(hidden).float().log_softmax(-1)
        self.model.train(training)
        best = logprobs.topk(min(LEARNER_TOKENS, logprobs.shape[-1]))
        return tuple(
            dict(zip(tokens, values, strict=True))
            for tokens, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        )

    @contextlib.contextmanager
    def under(self, parameters: Mapping[str, torch.Tensor]) -> Iterator[None]:
        """Compute with other trained parameters for a while; no gradient may cross the border."""
        own = {name: parameter.data for name, parameter in self.parameters().items()}
        try:
            for name, parameter in self.parameters().items():
                parameter.data = parameters[name]
            yield
        finally:
            for name, parameter in self.parameters().items():
                parameter.data = own[name]

    def snapshot(self) -> dict[str, torch.Tensor]:
        """A copy of the trained parameters, on their device."""
        return {name: parameter.detach().clone() for name, parameter in self.parameters().items()}

    def towards_reference(self, weight: float) -> dict[str, torch.Tensor]:
        """(1 - weight) theta + weight theta_ref; for an adapter, whose change is a product B A, the factor is B's."""
        if self.adapted is not None:
            scaled = self.parameters().items()
            return {name: p.detach() * (1.0 - weight if "lora_B" in name else 1.0) for name, p in scaled}
        start = dict(self.reference.named_parameters())
        return {name: p.detach().lerp(start[name].to(p.dtype), weight) for name, p in self.parameters().items()}

    def published_tensors(self) -> dict[str, torch.Tensor]:
        """A copy of what the engines need, on the CPU, safe from later updates."""
        if self.adapted is not None:
            from peft import get_peft_model_state_dict

            state = get_peft_model_state_dict(self.adapted)
            return {name: value.detach().to("cpu", copy=True) for name, value in state.items()}
        state = {
            name: value.detach().to("cpu", self.dtype, copy=True) for name, value in self.model.state_dict().items()
        }
        # Engines run with untied embeddings, because their reload leaves a tied output head in place.
        state["lm_head.weight"] = self.model.get_output_embeddings().weight.detach().to("cpu", self.dtype, copy=True)
        return state

    def adapter_config(self) -> str | None:
        """peft's configuration of the adapter as JSON; none when the full weights are trained."""
        if self.adapted is None:
            return None
        config = self.adapted.peft_config["default"].to_dict()
        return json.dumps(config, default=lambda value: sorted(value) if isinstance(value, set) else str(value))

    def save(self, folder: Path) -> None:
        """Write the policy as a Hugging Face model folder with its tokenizer, adapters merged."""
        model = self.model if self.adapted is None else self.adapted.merge_and_unload()
        model.to(self.dtype).save_pretrained(folder)
        load_tokenizer(self._folder).save_pretrained(folder)

    def _load(self, dtype: torch.dtype) -> Any:
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(
            self._folder,
            dtype=dtype,
            attn_implementation="sdpa",
            trust_remote_code=self._config.model.trust_remote_code,
        )
        if getattr(model.config, "final_logit_softcapping", None):
            raise ModelError(f"{self._folder} caps its logits (final_logit_softcapping), which is not supported yet")
        attend_in_blocks(model)
        return model.to(self.device)

    def _adapt(self) -> Any:
        from peft import LoraConfig, get_peft_model
        from peft.tuners.tuners_utils import BaseTunerLayer

        lora = self._config.learner.lora
        targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
        adapter = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=targets,
            task_type="CAUSAL_LM",
        )
        adapted = get_peft_model(self.model, adapter)
        if self._half:
            for module in adapted.modules():
                if isinstance(module, BaseTunerLayer):
                    # A product's input would be cast to float32, and by autocast back to what it was.
                    module.cast_input_dtype_enabled = False
        return adapted

    @contextlib.contextmanager
    def _reference(self) -> Iterator[Any]:
        with torch.no_grad():
            if self.adapted is None:
                yield self.reference
            else:
                with self.adapted.disable_adapter():
                    yield self.model

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self._half)

    def _hidden(self, model: Any, layout: Layout) -> torch.Tensor:
        """Last hidden states of a packed row, [T, d]."""
        hidden: torch.Tensor = model.base_model(**inputs_of(model, layout, self.device)).last_hidden_state[0]
        return hidden

    def _token_logprobs(self, model: Any, layout: Layout, temperature: float) -> torch.Tensor:
        with self._autocast():
            head, targets = model.get_output_embeddings(), layout.targets.to(self.device)
            weight, bias = head.weight, getattr(head, "bias", None)
            if self._allowed is not None:
                weight, bias = weight[self._allowed], None if bias is None else bias[self._allowed]
                targets = torch.searchsorted(self._allowed, targets)
            return token_logprobs(
                self._hidden(model, layout)[layout.predictor.to(self.device)],
                weight,
                targets,
                temperature=temperature,
                chunk_tokens=self._config.learner.chunk_tokens,
                head_bias=bias,
            )
