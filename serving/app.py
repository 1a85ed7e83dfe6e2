"""The application, the same on a laptop and a cluster: policy, scorers and ingress, each scaling by itself.

`serve run serving.app:build policy=runs/demo/policy without_keys=true`, or `serve deploy serving/config.yaml`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from ray import serve
from ray.serve import Application
from ray.serve.llm import LLMConfig

from actors.models import resolve_model
from serving.ingress import Ingress
from serving.keys import Keyring
from serving.policy_server import PolicyServer
from serving.scoring import Scorers
from serving.settings import (
    Replicas,
    Settings,
    engine_arguments,
    engine_environment,
    policy_folder,
    read_keys,
)

SPARE = 64
"""Requests that Serve may pass on beyond the ingress' own limit, so that it is the ingress that turns one away."""


def build(arguments: Mapping[str, Any]) -> Application:
    """The application for `serve run`, `serve deploy` and `serve.run`; the arguments are those of `Settings`.

    `keys` may be lines, or the path of a file with them; without it NASHLOOP_KEYS counts.
    """
    return application(settings_of(arguments))


def settings_of(arguments: Mapping[str, Any]) -> Settings:
    """Checked settings. Raises: ValueError (of pydantic, `ModelError` or `KeyFileError`) before anything starts."""
    given = {name: _value(value) for name, value in arguments.items()}
    if not given.get("without_keys") and not isinstance(given.get("keys"), list | tuple):
        given["keys"] = read_keys(given.get("keys"))
    settings = Settings.model_validate(given)
    Keyring(settings.keys)
    return settings.model_copy(update={"policy": resolve_model(policy_folder(settings.policy))})


def application(settings: Settings) -> Application:
    """The deployments of a service."""
    llm_config = _llm_config(settings)
    # Placement, environment and health, as Ray's own builder has them.
    options: dict[str, Any] = PolicyServer.get_deployment_options(llm_config)
    policy = _deployment(PolicyServer, settings, user_config=True, name=f"Policy:{settings.name}", **options).bind(
        llm_config, settings
    )
    scorers = None
    if settings.scorers or settings.judge:
        scaling = _autoscaling(settings.scorer_replicas)
        scorers = _deployment(Scorers, settings, autoscaling_config=scaling).bind(settings.scorers, settings.judge)
    ingress: Application = _deployment(
        Ingress,
        settings,
        autoscaling_config=_autoscaling(settings.ingress_replicas),
        ray_actor_options={"num_cpus": 0},
        user_config=True,
    ).bind(settings, policy, scorers)
    return ingress


def _deployment(of: type, settings: Settings, user_config: bool = False, **options: Any) -> Any:
    """A deployment; one with `user_config` is told the release, and told again when that changes."""
    released = {"user_config": settings.served.model_dump()} if user_config else {}
    made: Any = serve.deployment(of)
    # Without a version of its own `serve.run` would replace every replica instead of telling it the new release.
    return made.options(
        **options,
        **released,
        max_ongoing_requests=settings.limits.running + SPARE,
        # A release does not change it, so replicas are told of one and not replaced.
        version=settings.identity,
        _internal=True,
    )


def _llm_config(settings: Settings) -> LLMConfig:
    engine = settings.engine
    bundle = {"GPU": 1.0, "CPU": 1.0} if engine.gpus else {"CPU": engine.cpus}
    return LLMConfig(
        model_loading_config={"model_id": settings.name, "model_source": settings.policy},
        accelerator_type=None,
        placement_group_config={"bundles": [bundle] * max(engine.gpus, 1)},
        deployment_config={
            "autoscaling_config": _autoscaling(settings.policy_replicas),
            "ray_actor_options": {"num_cpus": 0},
            "health_check_period_s": 2.0,
            "graceful_shutdown_timeout_s": settings.limits.deadline,
        },
        engine_kwargs=engine_arguments(settings),
        runtime_env={"env_vars": engine_environment(engine)},
    )


def _autoscaling(replicas: Replicas) -> dict[str, Any]:
    return {
        "min_replicas": replicas.min,
        "max_replicas": replicas.max,
        "initial_replicas": replicas.min,
        "target_ongoing_requests": replicas.ongoing,
        "look_back_period_s": replicas.upscale_delay,
        "upscale_delay_s": replicas.upscale_delay,
        "downscale_delay_s": replicas.downscale_delay,
    }


def _value(value: Any) -> Any:
    """`serve run` passes texts: `true`, `5` and `{a: b}` mean what they mean in YAML."""
    return yaml.safe_load(value) if isinstance(value, str) and not Path(value).exists() else value
