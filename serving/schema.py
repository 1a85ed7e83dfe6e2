"""Requests and answers, as pydantic models: vLLM's own where OpenAI has them, with two more fields for a chat."""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from ray.serve.llm.openai_api_models import ChatCompletionRequest, CompletionRequest

Method = Literal["none", "best_of_n", "soft_best_of_n", "best_of_majority", "rps", "tournament"]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Preference = dict[str, Finite] | Annotated[float, Field(ge=-180, le=180, allow_inf_nan=False)]
"""Weights by objective, of any length but 0; or, with two objectives, an angle: atan2(second, first), in degrees."""


class Strict(BaseModel):
    """A model without unknown fields."""

    model_config = ConfigDict(extra="forbid")


class Selection(Strict):
    """How one answer is chosen among several."""

    method: Method = "rps"
    k: int = Field(default=5, ge=1, le=1000, validation_alias=AliasChoices("k", "n"))
    """Candidates; `n` is accepted for it."""
    theta_max: float = Field(default=30.0, gt=0, le=90)
    """rps: farthest direction from the preferred one, in degrees."""
    neighborhood: Literal["grid", "uniform", "von_mises"] = "grid"
    """rps: the published multiples of five degrees; or drawn, uniformly or nearer to the preferred direction."""
    toward: Preference | None = None
    """rps: take only directions on this one's side of the preferred one, as towards what training covered."""
    temperature: float = Field(default=1.0, gt=0, le=1e6)
    """soft_best_of_n: of the softmax over projected scores."""
    alpha: float = Field(default=0.25, ge=0, le=1)
    """best_of_majority: share of the candidates that has to agree on an answer."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Of what the method draws; of the candidates too where the request has no `seed` of its own."""
    return_candidates: bool = False


class Checked(BaseModel):
    """A request of vLLM's, in which everything that is wrong is a wrong request.

    vLLM's own checks raise errors of its own, and stumble over values of other types than they expect.
    """

    @model_validator(mode="wrap")
    @classmethod
    def _refused(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(data)
        except ValidationError:
            raise
        except Exception as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error


class ChatRequest(Checked, ChatCompletionRequest):
    """OpenAI's chat completion; `selection` and `preference` are NashLoop's."""

    selection: Selection | None = None
    preference: Preference | None = None


class TextRequest(Checked, CompletionRequest):
    """OpenAI's completion."""


class CandidateReport(Strict):
    """One candidate of a selection."""

    text: str
    direction: dict[str, float] | None
    """Direction it was written for."""
    rewards: dict[str, float] | None
    """Its reward vector; none where its scoring failed, and it was left out."""
    score: float | None
    """Its reward along the preferred direction, or its win rate in a tournament."""
    problem: str | None = None
    """Why it has no score."""


class SelectionReport(Strict):
    """`nashloop` in an answer."""

    method: Method
    version: int
    k: int
    direction: dict[str, float] | None
    scored_by: dict[str, str]
    scored: int | None = None
    """Candidates that could be scored."""
    candidates: list[CandidateReport] | None = None


class ResponsesRequest(Strict):
    """Responses to one prompt."""

    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    """A conversation instead of the prompt."""
    responses: list[str] = Field(min_length=1)


class ScoresAnswer(Strict):
    """Reward vectors, response by response."""

    objectives: list[str]
    scored_by: dict[str, str]
    rewards: list[dict[str, float] | None]
    problems: list[str | None]


class PreferencesAnswer(Strict):
    """Who is preferred to whom."""

    scored_by: str
    matrix: list[list[float]]
    """Probability that the row's response is preferred to the column's; sums to 1 with its mirror image."""
    win_rates: list[float]
    """Mean probability of a response against the others."""
    order: list[int]
    """Places of the responses, the best first."""


class ModelCard(BaseModel):
    """A model, in OpenAI's shape."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "nashloop"


class ModelList(BaseModel):
    """Models, in OpenAI's shape."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Status(BaseModel):
    """Whether the service answers, and with what."""

    ready: bool
    version: int | None = None
    refused: str | None = None
    """Why a newer release is not served."""
    running: int | None = None
    """Answers that the replica which was asked is writing."""


class ErrorBody(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None = None
    code: str | int | None = None


class ErrorAnswer(BaseModel):
    """An error, in OpenAI's shape."""

    error: ErrorBody
