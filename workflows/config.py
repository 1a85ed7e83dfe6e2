"""From a YAML file and `--set key=value` to a typed configuration, with errors a person can act on."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from actors.config import AlignConfig
from actors.scorers.config import LanguageModelJudgeConfig
from algorithms.objective import Objective, build_objective
from algorithms.pacing import feasible, staleness_slack

Model = TypeVar("Model", bound=BaseModel)


class ConfigError(ValueError):
    """A configuration that can't be run; the message names the key, the value and what is allowed."""


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> AlignConfig:
    """Read and check a run's configuration.

    `overrides` are `dotted.key=value`, the value read as YAML.
    Raises: `ConfigError` with every fault found.
    """
    return parse_config(override(read_tree(path), overrides))


def parse_config(tree: Mapping[str, Any]) -> AlignConfig:
    """Check a configuration tree; see `load_config`."""
    config = parse_tree(tree, AlignConfig)
    _check_across_planes(config)
    return config


def read_tree(path: str | Path) -> dict[str, Any]:
    """The tree of keys in a YAML file, unchecked.

    Raises: `ConfigError` when there is none.
    """
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"there is no configuration file {path}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} can't be read as YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds {type(tree).__name__} where a tree of keys is expected")
    return tree


def override(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`tree` with `dotted.key=value` put into it.

    Raises: `ConfigError` when one isn't of that form.
    """
    for entry in overrides:
        _set(tree, entry)
    return tree


def parse_tree(tree: Mapping[str, Any], model: type[Model]) -> Model:
    """A tree of keys as `model`.

    Raises: `ConfigError` with every unknown key and its nearest name, or every wrong value.
    """
    unknown = list(_unknown_keys(tree, model, ""))
    if unknown:
        raise ConfigError("\n".join(unknown))
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(item) for item in error.errors())) from None


def objective_of(config: AlignConfig) -> Objective:
    """The run's objective, its options checked."""
    try:
        return build_objective(config.objective.name, config.objective.options)
    except ValidationError as error:
        faults = [_explain({**item, "loc": ("objective", "options", *item["loc"])}) for item in error.errors()]
        raise ConfigError("\n".join(faults)) from None
    except ValueError as error:
        raise ConfigError(f"objective.name: {error}") from None


def _check_across_planes(config: AlignConfig) -> None:
    objective = objective_of(config)
    if objective.sampling.candidates > config.rollout.max_sequences * config.rollout.engines:
        raise ConfigError(
            f"objective.options.candidates = {objective.sampling.candidates} is more than the engines decode together "
            f"(rollout.max_sequences x rollout.engines = {config.rollout.max_sequences * config.rollout.engines})"
        )
    loop, rollout = config.loop, config.rollout
    _check_staleness(config, objective)
    reason = feasible(max_running=rollout.max_running, eta=loop.eta, batch=loop.batch, lookahead=loop.lookahead)
    if reason:
        raise ConfigError(f"this run would deadlock: {reason}")
    if config.learner.warmup_steps > loop.steps:
        raise ConfigError(
            f"learner.warmup_steps = {config.learner.warmup_steps} is more than loop.steps = {loop.steps}; "
            "the peak rate would never be reached"
        )
    if rollout.max_new_tokens >= config.model.context:
        raise ConfigError(
            f"rollout.max_new_tokens = {rollout.max_new_tokens} leaves no room for a prompt in "
            f"model.context = {config.model.context}"
        )
    if "teacher" in objective.sampling.policies and config.teacher is None:
        raise ConfigError(
            f"objective {config.objective.name} asks the policy `teacher` for candidates, but there is no teacher; "
            "give teacher.model: a folder or id, or the name of a model at teacher.endpoint"
        )
    if config.teacher and "teacher" not in objective.sampling.policies:
        raise ConfigError(f"objective {config.objective.name} asks the configured teacher for nothing; remove teacher")
    if config.evaluation.every and not config.data.heldout:
        raise ConfigError("evaluation.every is set, but data.heldout names no file of held-out prompts")
    _check_scoring(config)


def _check_scoring(config: AlignConfig) -> None:
    if config.scoring.standardises and not config.data.heldout:
        raise ConfigError(
            "scoring.combine brings its members to one scale on the start's answers to held-out prompts, but "
            "data.heldout names no file of them; name one, or set standardise: false in scoring.combine"
        )
    if config.scoring.gold and not config.data.heldout:
        raise ConfigError("scoring.gold judges evaluations, but data.heldout names no file of held-out prompts")
    for judge in (*config.scoring.panel, *config.scoring.gold):
        if not isinstance(judge, LanguageModelJudgeConfig) or judge.endpoint is None:
            continue
        if judge.group_deadline >= config.deadlines.score:
            raise ConfigError(
                f"the judge {judge.llm_judge} may take group_deadline = {judge.group_deadline:g} s for a group, and "
                f"its scorer is taken for dead after deadlines.score = {config.deadlines.score:g}; raise the latter"
            )


def _check_staleness(config: AlignConfig, objective: Objective) -> None:
    """Refuse what would make a role older than the objective tolerates, or a batch meet the wrong opponents."""
    loop, roles = config.loop, objective.sampling.roles
    if objective.update.rule == "extragradient" and loop.steps % 2:
        raise ConfigError(
            f"loop.steps = {loop.steps} is odd, and an update of {objective.name} takes two versions: "
            f"give {loop.steps + 1}"
        )
    if objective.update.alternate and config.evaluation.every % 2:
        raise ConfigError(
            f"evaluation.every = {config.evaluation.every} is odd, and with objective.options.alternate the engines "
            f"hold {objective.name}'s look-ahead at odd versions: give {config.evaluation.every + 1}"
        )
    bounds = [role.staleness for role in roles]
    tightest = [bound for bound in bounds if bound is not None]
    if len(tightest) == len(bounds) and max(tightest) < loop.eta:
        raise ConfigError(
            f"loop.eta = {loop.eta}, but {objective.name} tolerates candidates that are {max(tightest)} updates old: "
            f"{objective.staleness_tolerance} Set loop.eta to {max(tightest)}, or raise the tolerance in "
            "objective.options if that is meant"
        )
    slack = staleness_slack(loop.lookahead, loop.batch)
    if tightest and min(tightest) < slack:
        raise ConfigError(
            f"loop.lookahead = {loop.lookahead} delays groups by up to {slack} versions, and {objective.name} "
            f"tolerates opponents that are {min(tightest)} updates old: set loop.lookahead to "
            f"{min(tightest) * loop.batch}"
        )


def _set(tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override!r} is not of the form key=value, for example learner.learning_rate=1e-6")
    try:
        set_key(tree, key, yaml.safe_load(value))
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override!r}: the value is not YAML: {error}") from None
    except ConfigError as error:
        raise ConfigError(f"--set {override!r}: {error}") from None


def set_key(tree: dict[str, Any], key: str, value: Any) -> None:
    """Put a value at a dotted key.

    Raises: `ConfigError` when something above it is a value.
    """
    *parents, last = key.split(".")
    node = tree
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"{parent} is a value, not a group of keys")
        node = child
    node[last] = value


def _unknown_keys(tree: Any, model: type[BaseModel], prefix: str) -> Any:
    if not isinstance(tree, Mapping):
        return
    for key, value in tree.items():
        if key not in model.model_fields:
            nearest = difflib.get_close_matches(str(key), model.model_fields, n=1, cutoff=0.0)
            yield f"unknown key {prefix}{key}; did you mean {prefix}{nearest[0]}?"
            continue
        annotation = model.model_fields[key].annotation
        parts = {f"{prefix}{key}.": value}
        if get_origin(annotation) is dict and isinstance(value, Mapping):
            parts = {f"{prefix}{key}.{name}.": part for name, part in value.items()}
        kinds = [k for k in get_args(annotation) or (annotation,) if isinstance(k, type) and issubclass(k, BaseModel)]
        # Where there are several kinds, only the one that is chosen knows its keys, and says so itself.
        for place, part in parts.items() if len(kinds) == 1 else ():
            yield from _unknown_keys(part, kinds[0], place)


def _explain(item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"]) or "configuration"
    if item["type"] == "missing":
        return f"{key} is missing"
    given = item.get("input")
    shown = "" if isinstance(given, Mapping) else f" = {given!r}"
    return f"{key}{shown}: {item['msg'].removeprefix('Value error, ')}"
