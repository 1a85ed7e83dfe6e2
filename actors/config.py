"""Typed configuration of every plane.

Each model mirrors the component that reads it. Unknown keys are refused; ranges are stated on the field, so that
a wrong value is answered with the key, the value and what is allowed before anything starts.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Seconds = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]


class Component(BaseModel):
    """Base of every configuration: immutable, complete, and strict about names."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class ModelConfig(Component):
    """The policy that is aligned."""

    name: str
    """A Hugging Face folder or id, or `smollm2-135m-instruct`, which ships with the requirements."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Number format of the weights in the engines, and of the frozen weights in the learner."""
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


class JudgeConfig(Component):
    """A judge that takes options: `judge` names a function `module:function` that, called with them, returns it."""

    judge: str
    options: dict[str, Any] = Field(default_factory=dict)


class ScoringConfig(Component):
    """A pool of preference scorers."""

    panel: tuple[str | JudgeConfig, ...] = Field(min_length=1)
    """Pairwise judges as `module:function`, or with options; with several, the majority decides each pair."""
    labels: Literal["probability", "sampled"] = "probability"
    """What a trained pair is told: its probability, or 0 or 1 drawn from it. Evaluations always count probabilities."""
    flip_rate: float = Field(default=0.0, ge=0, le=0.5)
    """Share of trained pairs whose verdict is reversed, as noise of the judges; 1/2 leaves no signal."""
    scorers: int = Field(default=1, ge=1)
    cpus: float = Field(default=1, ge=0)
    truncation_penalty: Share = 1.0
    """How far a candidate cut at the token limit loses against a complete one: 0 not at all, 1 always."""
    attempts: int = Field(default=3, ge=1)
    """How often a group is scored again after its scorer died, before it is rejected as `scorer_lost`."""
    max_rejected_share: Share = 0.2
    """The run stops when more than this share of the finished groups was rejected ..."""
    min_finished: int = Field(default=16, ge=1)
    """... counted from this many finished groups on."""


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
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    warmup_steps: int = Field(default=0, ge=0)
    minimum_rate: Share = 0.0
    """Floor of the schedule, as a share of `learning_rate`."""
    weight_decay: float = Field(default=0.0, ge=0)
    betas: tuple[Decay, Decay] = (0.9, 0.99)
    epsilon: float = Field(default=1e-8, gt=0)
    gradient_clip: float = Field(default=1.0, gt=0)
    """Largest gradient norm (L2)."""
    token_budget: int = Field(default=2048, ge=1)
    """Tokens of one packed micro-batch; a larger single group makes a micro-batch of its own."""
    share_prompts: bool = True
    """A prompt is computed once for all its completions, under an explicit attention mask (T x T for a micro-batch of
    T tokens: meant for contexts of a few thousand tokens). False repeats the prompt and works with flash attention."""
    chunk_tokens: int = Field(default=512, ge=1)
    """Tokens whose vocabulary scores exist at once."""
    gradient_checkpointing: bool = False
    checkpoint_every: int = Field(default=10, ge=1)
    """Versions between checkpoints; what lies between is replayed after a worker died."""
    checkpoints_kept: int = Field(default=2, ge=1)
    max_restarts: int = Field(default=3, ge=0)


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


class ObjectiveConfig(Component):
    """Name and options of the objective; the options are checked by the objective itself."""

    name: str = "online_dpo"
    options: dict[str, Any] = Field(default_factory=dict)


class TeacherConfig(Component):
    """Another model that writes the candidates of the policy `teacher`, at an endpoint or in an engine of its own."""

    model: str = Field(min_length=1)
    """Its name at the endpoint; without an endpoint, a Hugging Face folder or id."""
    endpoint: str | None = Field(default=None, pattern=r"^https?://")
    """Base address of an OpenAI-compatible API, up to where `/chat/completions` follows."""
    key_variable: str | None = None
    """Name of the environment variable that holds the endpoint's key."""
    request: dict[str, Any] = Field(default_factory=dict)
    """Fields of the endpoint's request that differ, for example `{temperature: 0.2}`; null leaves one out."""
    max_calls: int | None = Field(default=None, ge=1)
    """Calls that the endpoint may get from the whole run, retries and resumed lives included."""
    deadline: Seconds = 60.0
    """One call; `deadlines.generate` still holds for a group."""
    attempts: int = Field(default=4, ge=1)
    longest_pause: Seconds = 60.0
    """Between two tries; an endpoint that asks for more has failed."""
    concurrency: int = Field(default=8, ge=1)
    """Calls at once."""
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
    deadlines: DeadlineConfig = DeadlineConfig()
