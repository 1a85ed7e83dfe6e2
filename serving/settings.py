"""What a service is made of: policy, scorers, limits and sizes. Unknown keys and wrong values are refused at once."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from actors.component import Component, NumberFormat, Seconds
from serving.prompts import check_template

Template = Literal["paper", "simpo", "dpa", "steerlm", "spoken"]


class Limits(Component):
    """What one caller, and all together, may ask for. Rates and numbers hold for each replica of the ingress."""

    body_bytes: int = Field(default=1 << 20, ge=1024)
    """Longest request body."""
    prompt_tokens: int | None = Field(default=None, ge=1)
    """Longest prompt, with its template; none leaves it to the context."""
    output_tokens: int | None = Field(default=None, ge=1)
    """Longest answer; none leaves it to the context."""
    candidates: int = Field(default=16, ge=1)
    """Most candidates, choices or prompts of one request."""
    deadline: Seconds = 120.0
    """Seconds after which a request is given up and its generation cancelled."""
    running: int = Field(default=256, ge=1)
    """Requests that are answered at once; more are turned away with 503 instead of queued."""
    key_running: int = Field(default=256, ge=1)
    """Requests of one key that are answered at once; more are turned away with 429."""
    key_rate: float = Field(default=1000.0, gt=0)
    """Requests of one key a second, averaged; above it they are turned away with 429."""
    key_burst: float = Field(default=1000.0, ge=1)
    """Requests of one key that may come at once after a pause."""


class Engine(Component):
    """One vLLM engine, which is one replica of the policy."""

    dtype: NumberFormat = "bfloat16"
    context: int = Field(default=2048, ge=16)
    """Longest prompt plus answer, in tokens."""
    max_sequences: int = Field(default=64, ge=1)
    cpus: float = Field(default=1, gt=0)
    gpus: int = Field(default=0, ge=0)
    """GPUs of one engine, over which it splits the model; 0 is CPU."""
    threads: int = Field(default=1, ge=1)
    """OpenMP threads on CPU."""
    kv_cache_gib: float = Field(default=1.0, gt=0)
    """KV cache on CPU; on a GPU `gpu_memory_share` decides."""
    gpu_memory_share: float = Field(default=0.85, gt=0, le=1)
    enforce_eager: bool = True
    trust_remote_code: bool = False


class Replicas(Component):
    """How many replicas of a deployment there are: between these two, by the number of ongoing requests."""

    min: int = Field(default=1, ge=1)
    max: int = Field(default=1, ge=1)
    ongoing: float = Field(default=32.0, gt=0)
    """Ongoing requests of a replica that autoscaling aims at, in the mean of the last `upscale_delay` seconds."""
    upscale_delay: float = Field(default=30.0, gt=0)
    """Seconds for which there have to be too few replicas before more are started."""
    downscale_delay: float = Field(default=600.0, ge=0)
    """Seconds for which there have to be too many replicas before some are ended."""

    @model_validator(mode="after")
    def _ordered(self) -> "Replicas":
        if self.max < self.min:
            raise ValueError(f"max = {self.max} replicas are fewer than min = {self.min}")
        return self


class Release(Component):
    """What is served now: the `user_config` of a deployment, so that Serve changes it in place."""

    policy: str
    """Folder that `from_pretrained` loads."""
    version: int = Field(default=0, ge=0)
    preference: dict[str, float] | float | None = None
    """What a request that asks for a selection prefers when it does not say so: weights, or an angle in degrees."""


class Settings(Component):
    """A service."""

    policy: str
    """Folder of the policy, or the run directory that holds it; served first, and where no release can be."""
    release: Release | None = None
    """Served instead of `policy` since; changing it changes the running service in place."""
    name: str = "policy"
    """Model name that clients use."""
    scorers: dict[str, str] = Field(default_factory=dict)
    """Objective by objective, who scores it: `module:function`, or `folder#head` of a reward model."""
    judge: str | None = None
    """`module:function` of a pairwise judge, for tournaments and `/v1/preferences`."""
    preference: dict[str, float] | float | None = None
    template: Template = "paper"
    """How a direction is told to the policy; `serving/templates/`."""
    keys: tuple[str, ...] = ()
    """Names and SHA-256 hashes of the bearer keys, `name sha256:...`; empty only with `without_keys`."""
    without_keys: bool = False
    log_prompts: bool = False
    engine: Engine = Engine()
    limits: Limits = Limits()
    policy_replicas: Replicas = Replicas()
    scorer_replicas: Replicas = Replicas()
    ingress_replicas: Replicas = Replicas(ongoing=128.0)

    @field_validator("name")
    @classmethod
    def _plain(cls, name: str) -> str:
        if not name.strip() or ":" in name:
            raise ValueError(f"a model name is not empty and has no colon (which marks adapters), got {name!r}")
        return name

    @model_validator(mode="after")
    def _guarded(self) -> "Settings":
        if not self.keys and not self.without_keys:
            raise ValueError(
                "no key is given, so anyone who reaches the port could use the service; make one with "
                "`python -m serving.keys NAME`, pass its line with --keys FILE or in NASHLOOP_KEYS, "
                "or say --without-keys"
            )
        if len(self.scorers) > 1:
            check_template(self.template, self.scorers)
        return self

    @property
    def identity(self) -> str:
        """The same for all releases of one service."""
        fixed = self.model_copy(update={"release": None, "preference": None}).model_dump_json()
        return hashlib.sha256(fixed.encode()).hexdigest()[:16]

    @property
    def served(self) -> Release:
        """What is to be served now."""
        return self.release or Release(policy=self.policy, preference=self.preference)


def policy_folder(name: str) -> str:
    """The model folder behind a name: that of a run directory is its `policy/`."""
    inside = Path(name).expanduser() / "policy"
    return str(inside.resolve()) if inside.is_dir() else name


def engine_environment(engine: Engine) -> dict[str, str]:
    """Environment variables of an engine's processes."""
    environment = {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1", "TOKENIZERS_PARALLELISM": "false"}
    if not engine.gpus:
        environment |= {"OMP_NUM_THREADS": str(engine.threads), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    return environment


def engine_arguments(settings: Settings) -> dict[str, Any]:
    """Arguments of vLLM's engine and of its OpenAI layer."""
    engine = settings.engine
    arguments: dict[str, Any] = {
        "dtype": engine.dtype,
        "max_model_len": engine.context,
        "max_num_seqs": engine.max_sequences,
        "enforce_eager": engine.enforce_eager,
        "enable_prefix_caching": True,
        "trust_remote_code": engine.trust_remote_code,
        "worker_extension_cls": "actors.engine_worker.WeightLoader",
        # With tied embeddings vLLM's reload leaves the old output head in place, without an error.
        "hf_overrides": {"tie_word_embeddings": False},
        "enable_log_requests": settings.log_prompts,
    }
    if settings.limits.output_tokens is not None:
        arguments["override_generation_config"] = {"max_new_tokens": settings.limits.output_tokens}
    if engine.gpus:
        return arguments | {"tensor_parallel_size": engine.gpus, "gpu_memory_utilization": engine.gpu_memory_share}
    return arguments | {
        "kv_cache_memory_bytes": int(engine.kv_cache_gib * 2**30),
        # A seeded request whose prompt is cut into chunks ends the engine on CPU (vLLM 0.32 rewinds its generator).
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(4096, engine.context),
        # The CPU default of 128 tokens is longer than most chat prompts, whose prefix would then never be shared.
        "block_size": 32,
    }


def read_keys(path: str | None, environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Lines of a key file or of NASHLOOP_KEYS, without comments and empty ones."""
    text = Path(path).expanduser().read_text("utf-8") if path else environment.get("NASHLOOP_KEYS", "")
    lines = (line.strip() for line in text.replace(",", "\n").splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))
