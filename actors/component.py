"""What every configuration is built from."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Seconds = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]


def native_format(name: Any) -> Any:
    """`auto` as the number format that this machine multiplies fastest in; other names as they are."""
    if name != "auto":
        return name
    import torch

    processor = torch.cpu.get_capabilities()
    fast = torch.cuda.is_available() or processor.get("amx_bf16") or processor.get("avx512_bf16")
    return "bfloat16" if fast else "float32"


NumberFormat = Annotated[Literal["float32", "bfloat16", "float16"], BeforeValidator(native_format)]
"""`auto` is also understood: `native_format` of the machine that reads the configuration, which is what is kept."""


class Component(BaseModel):
    """Base of every configuration: immutable, complete, and strict about names."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class EndpointConfig(Component):
    """How an OpenAI-compatible API is called."""

    key_variable: str | None = None
    """Name of the environment variable that holds the endpoint's key."""
    request: dict[str, Any] = Field(default_factory=dict)
    """Fields of the endpoint's request that differ, for example `{temperature: 0.2}`; null leaves one out."""
    max_calls: int | None = Field(default=None, ge=1)
    """Calls that the endpoint may get from the whole run, retries and resumed lives included."""
    deadline: Seconds = 60.0
    """One call; the deadline of the group's plane still holds for the group."""
    attempts: int = Field(default=4, ge=1)
    longest_pause: Seconds = 60.0
    """Between two tries; an endpoint that asks for more has failed."""
    concurrency: int = Field(default=8, ge=1)
    """Calls at once."""
