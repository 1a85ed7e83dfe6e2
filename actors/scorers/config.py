"""Configuration of the scoring plane: which scorers there are, and how their verdicts become one.

The kind of a scorer is the key that names it: `judge`, `reward`, `model` or `llm_judge`. A text alone is a judge.
"""

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from actors.component import Component, EndpointConfig, NumberFormat, Seconds, Share
from algorithms.comparisons import PairPlan
from algorithms.reward_weights import Squash

Positive = Annotated[float, Field(gt=0)]


class Choice(Component):
    """One of several kinds; unlike elsewhere, only the chosen kind can say which of its keys is the nearest."""

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, given: Any) -> Any:
        for key in given if isinstance(given, Mapping) else ():
            if key not in cls.model_fields:
                nearest = difflib.get_close_matches(str(key), cls.model_fields, n=1, cutoff=0.0)
                raise ValueError(f"unknown key {key}; did you mean {nearest[0]}?")
        return given


class JudgeConfig(Choice):
    """A pairwise judge that takes options: `judge` names a `module:function` that, called with them, returns it."""

    judge: str
    options: dict[str, Any] = Field(default_factory=dict)


class RewardConfig(Choice):
    """A pointwise reward: `module:function`, which is `reward(prompt, response)` or returns that for its options."""

    reward: str
    options: dict[str, Any] | None = None


class ModelScorerConfig(Choice):
    """A trained reward model, general preference model or pair classifier; its folder says which of them it is."""

    model: str = Field(min_length=1)
    """A Hugging Face folder or id."""
    heads: tuple[str | int, ...] | None = Field(default=None, min_length=1)
    """Outputs of a reward model to use, by name or number, each a member of its own; none: all of them."""
    template: str | None = None
    """File with the fields `{prompt}` and `{response}`, for a pair classifier `{prompt}`, `{first}` and `{second}`;
    none: the model's own, otherwise its chat template."""
    window: int | None = Field(default=None, ge=1)
    """Longest input in tokens; none: as many as the model has positions."""
    truncation_side: Literal["left", "right"] | None = None
    """Where an input that is longer is cut, and counted; none: as its folder says, otherwise its group is rejected."""
    dtype: NumberFormat = "float32"
    token_budget: int = Field(default=4096, ge=1)
    """Tokens of one forward pass, padding included."""
    trust_remote_code: bool = False


class JudgeEngineConfig(Choice):
    """A vLLM engine in each scorer."""

    context: int = Field(default=4096, ge=16)
    """Longest question with its answer, in tokens."""
    dtype: NumberFormat = "bfloat16"
    gpus: int = Field(default=0, ge=0)
    """GPUs that the model is split over; `scoring.gpus` asks for them. 0 on CPU."""
    max_sequences: int = Field(default=128, ge=1)
    """Questions that are answered together."""
    kv_cache_gib: float = Field(default=1.0, gt=0)
    """KV cache on CPU; on a GPU `gpu_memory_share` decides."""
    gpu_memory_share: float = Field(default=0.85, gt=0, le=1)


class LanguageModelJudgeConfig(Choice, EndpointConfig):
    """A language model that is asked which of two responses is better, both ways round."""

    llm_judge: str = Field(min_length=1)
    """Its name at the endpoint; in an engine, a Hugging Face folder or id."""
    endpoint: str | None = Field(default=None, pattern=r"^https?://")
    """Base address of an OpenAI-compatible API, up to where `/chat/completions` follows."""
    engine: JudgeEngineConfig | None = None
    """Instead of an endpoint; `{}` for one as it is by default."""
    template: str = "configs/templates/pairwise.txt"
    """File with the fields `{prompt}`, `{first}` and `{second}`."""
    labels: tuple[str, str] = ("A", "B")
    """What the judge answers when it prefers the response shown first, and second."""
    tie: str = "C"
    """What it answers for a tie."""
    max_tokens: int = Field(default=16, ge=1)
    """Of an answer; more for a judge that reasons first. With 1 an engine can answer nothing but a label."""
    deadline: Seconds = 20.0
    group_deadline: Seconds = 45.0
    """All calls about one group; it has to be less than `deadlines.score`."""
    cache: str | None = None
    """SQLite file of verdicts by what was asked, which later runs find again; none: one in `$NASHLOOP_CACHE`."""

    @model_validator(mode="after")
    def _one_source(self) -> "LanguageModelJudgeConfig":
        if (self.endpoint is None) == (self.engine is None):
            raise ValueError("a judge has an endpoint or an engine: name one of them")
        if self.endpoint and self.max_calls is None:
            raise ValueError("a judge at an endpoint needs max_calls, the calls that this run may make at most")
        if self.engine and (self.key_variable or self.request or self.max_calls):
            raise ValueError("key_variable, request and max_calls belong to a judge at an endpoint")
        return self


SCORERS: dict[str, type[Choice]] = {
    "judge": JudgeConfig,
    "reward": RewardConfig,
    "model": ModelScorerConfig,
    "llm_judge": LanguageModelJudgeConfig,
}


def _scorer_kind(given: Any) -> str | None:
    if isinstance(given, str):
        return "name"
    keys = given if isinstance(given, Mapping) else type(given).model_fields if isinstance(given, Choice) else ()
    return next((kind for kind in SCORERS if kind in keys), None)


ScorerConfig = Annotated[
    Annotated[str, Tag("name")]
    | Annotated[JudgeConfig, Tag("judge")]
    | Annotated[RewardConfig, Tag("reward")]
    | Annotated[ModelScorerConfig, Tag("model")]
    | Annotated[LanguageModelJudgeConfig, Tag("llm_judge")],
    Discriminator(
        _scorer_kind,
        custom_error_type="scorer_kind",
        custom_error_message=f"a scorer is module:function, or has one of the keys {', '.join(SCORERS)}",
    ),
]


class Majority(Choice):
    """Most votes decide each pair; a single member keeps its probabilities."""

    rule: Literal["majority"] = "majority"


class Weighted(Choice):
    """Weighted mean of the members' probabilities."""

    rule: Literal["weighted"] = "weighted"
    weights: tuple[Positive, ...] = Field(min_length=1)


class RewardRule(Choice):
    """A rule that makes one reward of the members' rewards; pairs are then compared by Bradley-Terry."""

    rule: str
    temperature: float = Field(default=1.0, gt=0)
    """P = sigma((r_i - r_j) / temperature)."""
    standardise: bool = True
    """First bring each member to mean 0 and variance 1 over the start's answers to the held-out prompts."""


class Mean(RewardRule):
    """Mean of the members."""

    rule: Literal["mean"] = "mean"


class WorstCase(RewardRule):
    """WCO: the least of the members."""

    rule: Literal["worst_case"] = "worst_case"


class Uncertainty(RewardRule):
    """UWO: mean - penalty * variance of the members."""

    rule: Literal["uncertainty"] = "uncertainty"
    penalty: float = Field(default=0.5, ge=0)


class Direction(RewardRule):
    """Members are objectives, and this is the direction to go in; its length does not matter."""

    rule: Literal["direction"] = "direction"
    direction: tuple[float, ...] = Field(min_length=1)


class Lagrangian(RewardRule):
    """Members are objectives, weighted so that the mean of each reaches its threshold (constrained RLHF)."""

    rule: Literal["lagrangian"] = "lagrangian"
    thresholds: tuple[float, ...] = Field(min_length=1)
    """In the members' own units."""
    squash: Squash = "sigmoid"
    """sigmoid: at least the threshold; tanh: exactly the threshold."""
    learning_rate: float = Field(default=0.1, gt=0)
    momentum: float = Field(default=0.1, ge=0, lt=1)


class Pama(RewardRule):
    """Members are objectives; a candidate is rewarded or punished only as far as all of them agree (PAMA)."""

    rule: Literal["pama"] = "pama"


def _named_rule(given: Any) -> Any:
    return {"rule": given} if isinstance(given, str) else given


Combination = Annotated[
    Annotated[
        Majority | Weighted | Mean | WorstCase | Uncertainty | Direction | Lagrangian | Pama,
        Field(discriminator="rule"),
    ],
    BeforeValidator(_named_rule),
]


def _at_least_one(panel: tuple[Any, ...]) -> tuple[Any, ...]:
    # As a length of the field it would be complained about beside every fault of a scorer.
    if not panel:
        raise ValueError("at least 1 scorer is needed")
    return panel


class ScoringConfig(Component):
    """A pool of preference scorers."""

    panel: Annotated[tuple[ScorerConfig, ...], AfterValidator(_at_least_one)]
    """The scorers: judges as `module:function`, or any kind with its options."""
    gold: tuple[ScorerConfig, ...] = ()
    """Scorers held out of training: their majority judges evaluations, and nothing that is trained on."""
    combine: Combination = Majority()
    """How their verdicts become one: the name of a rule, or `{rule: name, ...}` with its options."""
    pairs: PairPlan = "all"
    """Which pairs judges are asked about; the rest is completed. Models compare all pairs at no cost."""
    degree: int = Field(default=4, ge=2)
    """With `pairs: sparse`, how many others a candidate meets on average."""
    labels: Literal["probability", "sampled"] = "probability"
    """What a trained pair is told: its probability, or 0 or 1 drawn from it. Evaluations always count probabilities."""
    flip_rate: float = Field(default=0.0, ge=0, le=0.5)
    """Share of trained pairs whose verdict is reversed, as noise of the judges; 1/2 leaves no signal."""
    scorers: int = Field(default=1, ge=1)
    cpus: float = Field(default=1, ge=0)
    gpus: float = Field(default=0, ge=0)
    """GPUs of one scorer, for its models; a share lets several scorers share one."""
    threads: int = Field(default=1, ge=1)
    """Threads of one scorer's models on CPU."""
    truncation_penalty: Share = 1.0
    """How far a candidate cut at the token limit loses against a complete one: 0 not at all, 1 always."""
    attempts: int = Field(default=3, ge=1)
    """How often a group is scored again after its scorer died, before it is rejected as `scorer_lost`."""
    max_rejected_share: Share = 0.2
    """The run stops when more than this share of the finished groups was rejected ..."""
    min_finished: int = Field(default=16, ge=1)
    """... counted from this many finished groups on."""

    @property
    def held_out(self) -> "ScoringConfig | None":
        """The gold scorers as a panel of their own, where there are any."""
        return self.model_copy(update={"panel": self.gold, "gold": (), "combine": Majority()}) if self.gold else None

    @property
    def standardises(self) -> bool:
        """Whether the members' rewards are brought to one scale, which takes samples of the start."""
        return isinstance(self.combine, RewardRule) and self.combine.standardise


def scorer_name(entry: ScorerConfig) -> str:
    """What an entry of the panel is called by its own key."""
    if isinstance(entry, str):
        return entry
    kind = _scorer_kind(entry)
    return str(getattr(entry, str(kind)))
