"""Typed configuration of `workflows.preference_model`; see `actors.config` for what is refused, and how."""

from typing import Literal

from pydantic import Field, model_validator

from actors.component import Component, Decay, NumberFormat, Seconds, Share
from actors.config import LoraConfig
from actors.preference_inputs import Side

ObjectiveKind = Literal["bradley_terry", "general_preference", "pair_classifier", "regression"]

OPTIONS: dict[ObjectiveKind, frozenset[str]] = {
    "bradley_terry": frozenset({"smoothing", "contrast", "contrast_pairs"}),
    "general_preference": frozenset({"smoothing", "contrast", "contrast_pairs", "dimensions", "temperature"}),
    "pair_classifier": frozenset({"smoothing", "labels"}),
    "regression": frozenset(),
}
"""Which options belong to which kind."""


class PreferenceBaseConfig(Component):
    """The model that training starts from, and how it reads its inputs."""

    name: str
    """A Hugging Face folder or id, or `smollm2-135m-instruct`, which ships with the requirements."""
    dtype: NumberFormat = "bfloat16"
    """Number format of frozen weights, and of what is saved but the head, which is float32."""
    template: str | None = None
    """A text with {prompt} and {response}, or {prompt}, {first} and {second}; none: the tokenizer's chat template."""
    window: int | None = Field(default=None, ge=8)
    """Longest input in tokens; none: as many as the model has positions."""
    truncation_side: Side | None = None
    """Which end of a longer input is cut, and counted; none refuses it."""


class PreferenceDataConfig(Component):
    """JSONL or Parquet; see `actors.preference_data` for the columns."""

    train: str
    heldout: str | None = None
    """What the model card's figures are measured on; none: a share of the prompts of `train`."""
    heldout_share: float = Field(default=0.1, gt=0, lt=1)
    ties: Literal["keep", "drop"] = "keep"
    """A pair whose votes are balanced has the target 1/2, or is left out of training."""


class PreferenceObjectiveConfig(Component):
    """What is learned; the losses are those of `algorithms.preference_losses`."""

    kind: ObjectiveKind = "bradley_terry"
    smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Share of the labels that is taken to be reversed."""
    dimensions: int = Field(default=4, ge=2, multiple_of=2)
    """Size of a general preference model's embedding; a cycle needs 2."""
    temperature: float = Field(default=0.1, gt=0)
    """Divides the scores of a general preference model."""
    labels: tuple[str, str] = ("A", "B")
    """A pair classifier's answers: the response shown first is better, or the second."""
    contrast: float = Field(default=0.0, ge=0)
    """Weight of the goal-conditioned contrastive term; 0.5 in its paper."""
    contrast_pairs: int = Field(default=16, ge=1)
    """Pairs of hidden states of one comparison."""

    @model_validator(mode="after")
    def _options_match(self) -> "PreferenceObjectiveConfig":
        fields = type(self).model_fields
        others = fields.keys() - OPTIONS[self.kind] - {"kind"}
        if strange := sorted(name for name in others if getattr(self, name) != fields[name].default):
            known = ", ".join(sorted(OPTIONS[self.kind])) or "none"
            raise ValueError(f"{self.kind} takes no option {strange[0]}; its options are: {known}")
        return self


class PreferenceTrainingConfig(Component):
    """Ray Train workers that update the preference model."""

    workers: int = Field(default=1, ge=1)
    cpus: float = Field(default=1, ge=0)
    gpus: int = Field(default=0, ge=0, le=1)
    """GPUs of one worker."""
    threads: int = Field(default=1, ge=1)
    method: Literal["full", "lora", "head"] = "lora"
    """`head` trains nothing but the head, on features of the frozen body that are computed once."""
    lora: LoraConfig = LoraConfig()
    autocast: bool = True
    """Matrix products in bfloat16 over float32 trained weights; false computes in the weights' own format."""
    epochs: int = Field(default=1, ge=1)
    batch: int = Field(default=16, ge=1)
    """Comparisons, or rated responses, of one update."""
    learning_rate: float = Field(default=1e-4, ge=0)
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    warmup_share: Share = 0.05
    """Of the updates."""
    weight_decay: float = Field(default=0.0, ge=0)
    betas: tuple[Decay, Decay] = (0.9, 0.99)
    gradient_clip: float = Field(default=1.0, gt=0)
    """Largest gradient norm (L2)."""
    token_budget: int = Field(default=2048, ge=1)
    """Tokens of one micro-batch, padding included."""
    gradient_checkpointing: bool = False
    checkpoint_every: int = Field(default=50, ge=1)
    """Updates between checkpoints."""
    max_restarts: int = Field(default=3, ge=0)
    deadline: Seconds = 1800.0
    """The driver's wait for the next update, the first one with its start included, and for the evaluation."""


class PreferenceModelConfig(Component):
    """Everything one `preference_model` run is made of."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """The run directory is `directory/name`."""
    directory: str = "runs"
    seed: int = Field(default=0, ge=0)
    members: int = Field(default=1, ge=1)
    """Models that are trained one after another, alike but for their seeds: of an ensemble, if more than one."""
    model: PreferenceBaseConfig
    data: PreferenceDataConfig
    objective: PreferenceObjectiveConfig = PreferenceObjectiveConfig()
    training: PreferenceTrainingConfig = PreferenceTrainingConfig()

    @model_validator(mode="after")
    def _head_suffices(self) -> "PreferenceModelConfig":
        if self.training.method == "head" and self.objective.kind == "pair_classifier":
            raise ValueError("a pair classifier has no head of its own; set training.method to lora or full")
        if self.training.method == "head" and self.objective.contrast:
            raise ValueError("objective.contrast moves hidden states, which training.method = head leaves as they are")
        return self

    def folders(self) -> list[str]:
        """Names of the trained models' folders within the run directory, one a member."""
        return ["model"] if self.members == 1 else [f"model-{member}" for member in range(self.members)]
