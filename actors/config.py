"""Typed configuration of every plane.

Each model mirrors the component that reads it. Unknown keys are refused; ranges are stated on the field, so that
a wrong value is answered with the key, the value and what is allowed before anything starts.
"""

from typing import Any, Literal

from pydantic import Field, model_validator

from actors.component import Component as Component
from actors.component import Decay, EndpointConfig, NumberFormat, Seconds
from actors.component import Share as Share
from actors.scorers.config import JudgeConfig as JudgeConfig
from actors.scorers.config import ScoringConfig as ScoringConfig
from algorithms.schedules import learning_rate_factor


class ModelConfig(Component):
    """The policy that is aligned."""

    name: str
    """A Hugging Face folder or id, or `smollm2-135m-instruct`, which ships with the requirements."""
    dtype: NumberFormat = "bfloat16"
    """Number format of the weights in the engines, and of the frozen weights in the learner. `auto` chooses bfloat16 if
    the machine that starts the run has a GPU or multiplies in that format (AMX, AVX-512 BF16), and float32 if not."""
    context: int = Field(default=1024, ge=16)
    """Longest prompt plus completion, in tokens."""
    trust_remote_code: bool = False


class RolloutConfig(Component):
    """vLLM engines, each in a Ray actor of its own."""

    engines: int = Field(default=1, ge=1)
    tensor_parallel: int = Field(default=1, ge=1)
    max_running: int = Field(default=64, ge=1)
    """Groups that may be in generation or scoring at once, over all engines."""
    max_new_tokens: int = Field(default=64, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    """0 keeps the whole vocabulary."""
    allowed_tokens: tuple[int, ...] | None = Field(default=None, min_length=2)
    """Completions consist of these tokens only, and the policy is normalised over them; none allows every token."""
    cpus: float = Field(default=1, ge=0)
    gpus: int = Field(default=0, ge=0)
    """GPUs of one engine; equal to `tensor_parallel` on a GPU cluster, 0 on CPU."""
    threads: int = Field(default=1, ge=1)
    """OpenMP threads of one engine on CPU. More threads than cores collapse throughput tenfold."""
    max_sequences: int = Field(default=128, ge=1)
    """Sequences that one engine decodes together."""
    kv_cache_gib: float = Field(default=1.0, gt=0)
    """KV cache on CPU; on a GPU `gpu_memory_share` decides."""
    gpu_memory_share: float = Field(default=0.85, gt=0, le=1)
    prefix_caching: bool = True
    enforce_eager: bool = True
    attempts: int = Field(default=3, ge=1)
    """How often a group is issued before it is rejected as `generation_failed`."""

    @model_validator(mode="after")
    def _gpus_match(self) -> "RolloutConfig":
        if self.gpus and self.gpus != self.tensor_parallel:
            raise ValueError(
                f"gpus={self.gpus} and tensor_parallel={self.tensor_parallel} disagree: an engine needs one GPU a shard"
            )
        return self


class LoraConfig(Component):
    """Low-rank adapters (peft)."""

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"


class LearnerConfig(Component):
    """Ray Train workers that update the policy."""

    workers: int = Field(default=1, ge=1)
    cpus: float = Field(default=1, ge=0)
    gpus: int = Field(default=0, ge=0, le=1)
    """GPUs of one worker."""
    threads: int = Field(default=1, ge=1)
    method: Literal["full", "lora"] = "lora"
    lora: LoraConfig = LoraConfig()
    autocast: bool = True
    """Matrix products in bfloat16 over float32 trained weights; false computes in the weights' own format."""
    learning_rate: float = Field(default=5e-7, ge=0)
    schedule: Literal["constant", "linear", "cosine", "wsd", "rex", "curve"] = "linear"
    """After warm-up; formulas in `algorithms.schedules`."""
    warmup_steps: int = Field(default=0, ge=0)
    minimum_rate: Share = 0.0
    """Floor of the schedule, as a share of `learning_rate`."""
    decay_share: float = Field(default=0.2, gt=0, le=1)
    """Share of the updates after warm-up over which `wsd` decays ..."""
    decay_shape: Literal["sqrt", "linear", "exponential"] = "sqrt"
    """... and how."""
    rex_beta: float = Field(default=0.5, gt=0)
    """Bend of `rex`; 1 is linear, and less holds the rate up longer."""
    curve: tuple[float, ...] = ()
    """Rates of `curve` relative to each other, evenly spaced from the first update to the last."""
    weight_decay: float = Field(default=0.0, ge=0)
    betas: tuple[Decay, Decay] = (0.9, 0.99)
    epsilon: float = Field(default=1e-8, gt=0)
    gradient_clip: float = Field(default=1.0, gt=0)
    """Largest gradient norm (L2)."""
    token_budget: int = Field(default=2048, ge=1)
    """Tokens of one packed micro-batch; a larger single group makes a micro-batch of its own."""
    share_prompts: bool = True
    """A prompt is computed once for all its completions, and what all prompts of a micro-batch begin with once for all,
    under an explicit attention mask (t x t for a group of t tokens: meant for contexts of a few thousand tokens).
    False repeats the prompt; attention needs no mask then."""
    chunk_tokens: int = Field(default=512, ge=1)
    """Tokens whose vocabulary scores exist at once."""
    gradient_checkpointing: bool = False
    checkpoint_every: int = Field(default=10, ge=1)
    """Versions between checkpoints; what lies between is replayed after a worker died."""
    checkpoints_kept: int = Field(default=2, ge=1)
    max_restarts: int = Field(default=3, ge=0)

    def rate_at(self, step: int, total: int) -> float:
        """Learning rate of update `step` = 0, 1, ... of `total`."""
        return self.learning_rate * learning_rate_factor(
            step,
            total,
            self.warmup_steps,
            self.schedule,
            self.minimum_rate,
            decay_share=self.decay_share,
            decay_shape=self.decay_shape,
            rex_beta=self.rex_beta,
            curve=self.curve,
        )

    @model_validator(mode="after")
    def _curve_is_given(self) -> "LearnerConfig":
        if (self.schedule == "curve") != bool(self.curve):
            raise ValueError("schedule = 'curve' and curve: [...] belong together; give both or neither")
        if self.curve and (len(self.curve) < 2 or min(self.curve) < 0 or max(self.curve) == 0):
            raise ValueError("curve needs at least two rates, none of them negative and one above 0")
        return self


class PublicationConfig(Component):
    """How new weights reach the engines, and how their arrival is proved."""

    transport: Literal["object_store"] = "object_store"
    canaries: int = Field(default=4, ge=1)
    """Sequences whose most likely next tokens engine and learner must agree on after every load."""
    canary_tokens: int = Field(default=16, ge=1)
    """Length of a canary, taken from the ends of the first prompts."""
    tolerance: float | None = Field(default=None, gt=0)
    """Largest mean absolute difference of a canary token's log-probability, in nats; none: by number format."""
    record_canaries: bool = False
    """Keep the learner's canary log-probabilities of every publication in `canaries.jsonl`."""
    corrupt_version: int | None = None
    """Fault injection for drills: one tensor of this version is altered on its way to the engines."""

    def tolerance_for(self, dtype: str) -> float:
        """Tolerance in nats: the configured one, or the measured rounding of `dtype` with room to spare."""
        return self.tolerance or {"float32": 1e-3, "float16": 5e-2, "bfloat16": 0.15}[dtype]


class LoopConfig(Component):
    """Pacing of the asynchronous loop."""

    steps: int = Field(ge=1)
    """Updates of the policy; each consumes `batch` groups."""
    batch: int = Field(default=8, ge=1)
    """Groups of one update."""
    eta: int = Field(default=2, ge=0)
    """Largest staleness, in versions, at which a group is trained; 0 is the synchronous loop."""
    lookahead: int = Field(default=0, ge=0)
    """Groups beyond the oldest `batch` that may overtake a slow one; its staleness is taken out of `eta`."""


class DeadlineConfig(Component):
    """No wait is endless; each says what it waited for when it gives up. All in seconds."""

    cluster: float = Field(default=0.0, ge=0)
    """How long to wait for an autoscaling cluster to grow to the demand; 0 refuses at once."""
    start: Seconds = 300.0
    generate: Seconds = 300.0
    score: Seconds = 60.0
    publish: Seconds = 120.0
    batch: Seconds = 900.0
    """The learner's wait for the next batch."""
    step: Seconds = 1800.0
    """The conductor's wait for the learner, with a batch ready."""


class DataConfig(Component):
    """Prompts: JSONL or Parquet with a `prompt` or a `messages` column."""

    prompts: str
    heldout: str | None = None
    system: str | None = Field(default=None, min_length=1)
    """System message for conversations that have none; otherwise the chat template's own default applies."""


class EvaluationConfig(Component):
    """Win rate of the current policy against the start, on held-out prompts."""

    every: int = Field(default=0, ge=0)
    """Versions between evaluations during the run; 0 evaluates only the end."""
    prompts: int = Field(default=64, ge=1)
    """Held-out prompts of an evaluation during the run."""
    final_prompts: int = Field(default=128, ge=1)
    samples: int = Field(default=1, ge=1)
    """Completions of each prompt, of the start and of the current policy."""


RuleName = Literal["entropy_collapse", "chosen_falls", "reversal"]


class DiagnosticsConfig(Component):
    """What is watched while a run goes on, beside the loop; the rules are in `algorithms.stop_rules`."""

    every: int = Field(default=0, ge=0)
    """Versions between measurements of KL, entropy and the most likely tokens, from checkpoints; 0 takes none."""
    groups: int = Field(default=4, ge=1)
    """Groups of the last trained batch that a measurement looks at."""
    warn: tuple[RuleName, ...] = ("entropy_collapse", "chosen_falls", "reversal")
    """Rules that are told when they are broken; `reversal` needs measurements."""
    stop: tuple[RuleName, ...] = ()
    """Rules that end the run when they are broken."""
    entropy_share: Share = 0.4
    """Of the entropy at the start, below which it has collapsed."""
    chosen_limit: float = Field(default=50.0, gt=0)
    """How far the log-probability of chosen answers may go on falling, in nats."""
    reversal_tolerance: Share = 0.1
    """How far past its turning point a signal has to be, as a share of its range before."""


class ObjectiveConfig(Component):
    """Name and options of the objective; the options are checked by the objective itself."""

    name: str = "online_dpo"
    options: dict[str, Any] = Field(default_factory=dict)


class TeacherConfig(EndpointConfig):
    """Another model that writes the candidates of the policy `teacher`, at an endpoint or in an engine of its own."""

    model: str = Field(min_length=1)
    """Its name at the endpoint; without an endpoint, a Hugging Face folder or id."""
    endpoint: str | None = Field(default=None, pattern=r"^https?://")
    """Base address of an OpenAI-compatible API, up to where `/chat/completions` follows."""
    engine: RolloutConfig | None = None
    """The engine of a model folder; none: like those of `rollout`."""

    @model_validator(mode="after")
    def _one_source(self) -> "TeacherConfig":
        if self.endpoint and self.max_calls is None:
            raise ValueError("a teacher at an endpoint needs max_calls, the calls that this run may make at most")
        if self.endpoint and self.engine:
            raise ValueError("a teacher has an endpoint or an engine, not both")
        if not self.endpoint and (self.key_variable or self.request or self.max_calls):
            raise ValueError(
                "key_variable, request and max_calls belong to a teacher at an endpoint; name the endpoint"
            )
        return self


class AlignConfig(Component):
    """Everything one `align` run is made of."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """The run directory is `directory/name`."""
    directory: str = "runs"
    seed: int = Field(default=0, ge=0)
    model: ModelConfig
    data: DataConfig
    objective: ObjectiveConfig = ObjectiveConfig()
    loop: LoopConfig
    rollout: RolloutConfig = RolloutConfig()
    scoring: ScoringConfig
    teacher: TeacherConfig | None = None
    learner: LearnerConfig = LearnerConfig()
    publication: PublicationConfig = PublicationConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    diagnostics: DiagnosticsConfig = DiagnosticsConfig()
    deadlines: DeadlineConfig = DeadlineConfig()
