"""What a sweep is made of, and everything about it that can be wrong before a trial starts."""

import copy
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from actors.component import Component, Share
from actors.config import AlignConfig
from workflows.config import ConfigError, objective_of, override, parse_config, parse_tree, read_tree, set_key
from workflows.sweep.space import Axis, Point, listed_points, probes

EVALUATED = ("win_rate", "win_rate_low", "win_rate_high", "ties", "evaluated_length")
"""Metrics of an evaluation; the others are those of the update before it."""
METRICS = (
    *EVALUATED,
    *("loss", "margin", "accuracy", "kl", "kl_k3", "entropy", "length_mean", "truncated_share"),
    *("chosen_logprob", "rejected_logprob", "gradient_norm", "seconds"),
)
"""What every trial reports, and an objective can be."""
SAME_SCHEDULE = ("loop.steps", "evaluation.every", "learner.schedule", "learner.warmup_steps", "learner.minimum_rate")
"""Keys that have to be equal in all trials for scores at one share of the schedule to be comparable."""
TRIALS = "trials"
"""In the sweep directory: the run directory of every trial."""
SMALLEST_POPULATION, FEWEST_KEPT = 2, 2
"""Trials of population based training, and checkpoints that each of their runs has to keep."""


class SearchConfig(Component):
    """How points are chosen."""

    method: Literal["grid", "random", "sobol", "tpe", "gp"] = "grid"
    """`tpe`: tree-structured Parzen estimators; `gp`: Gaussian process (Matern 5/2, learned noise), both of Optuna."""
    trials: int | None = Field(default=None, ge=1)
    """Points; a grid has as many as its axes say."""
    seed: int = Field(default=0, ge=0)
    startup: int = Field(default=8, ge=1)
    """Points that `tpe` and `gp` draw at random before they look at results."""

    @model_validator(mode="after")
    def _trials_match(self) -> "SearchConfig":
        if (self.method == "grid") != (self.trials is None):
            raise ValueError(
                "the axes decide how many trials a grid has; remove search.trials"
                if self.method == "grid"
                else f"search.method = {self.method} needs search.trials, the number of points"
            )
        return self

    @property
    def learns(self) -> bool:
        """Whether points depend on earlier results."""
        return self.method in ("tpe", "gp")


class SchedulerConfig(Component):
    """Whether bad trials are stopped early, or go on as altered copies of good ones."""

    name: Literal["none", "asha", "pbt"] = "none"
    grace: Share = 0.25
    """`asha`: share of the run that every trial gets; below a fifth, decaying schedules punish high rates too early."""
    reduction: float = Field(default=3.0, gt=1)
    """`asha`: one in so many trials goes on past each rung."""
    interval: Share = Field(default=0.25, gt=0)
    """`pbt`: share of the run after which the worst quarter copies the best."""
    resample: Share = 0.25
    """`pbt`: chance that a copied setting is drawn anew, instead of raised or lowered."""


class MetricConfig(Component):
    """One objective of the sweep."""

    metric: str = "win_rate"
    mode: Literal["max", "min"] = "max"


class SweepConfig(Component):
    """Everything one sweep is made of."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """The sweep directory is `directory/name`."""
    directory: str = "runs/sweeps"
    base: dict[str, Any]
    """The `align` configuration that trials vary; in a file, its path or the tree itself."""
    changes: dict[str, Any] = Field(default_factory=dict)
    """Values by dotted key that hold for every trial."""
    space: dict[str, Axis] = Field(min_length=1)
    """Varied keys of the `align` configuration."""
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    """Every listed point is run with every seed; `tpe` and `gp` take them in turn."""
    search: SearchConfig = SearchConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    metrics: tuple[MetricConfig, ...] = Field(default=(MetricConfig(),), min_length=1)
    max_concurrent_trials: int | None = Field(default=None, ge=1)
    """None: as many as the cluster holds."""
    retries: int = Field(default=0, ge=0)
    """How often a failed trial goes on from its last checkpoint before it counts as failed."""


def load_sweep(path: str | Path, overrides: Sequence[str] = ()) -> SweepConfig:
    """Read and check a sweep.

    `overrides` are `dotted.key=value` of the sweep's own keys; those of the runs stand under `base`.
    Raises: `ConfigError`.
    """
    tree = read_tree(path)
    if isinstance(tree.get("base"), str):
        tree["base"] = read_tree(tree["base"])
    return parse_sweep(override(tree, overrides))


def parse_sweep(tree: dict[str, Any]) -> SweepConfig:
    """Check a sweep's tree; see `load_sweep`."""
    config = parse_tree(tree, SweepConfig)
    _check_metrics(config)
    _check_space(config)
    _check_scheduler(config)
    return config


def trial_config(config: SweepConfig, index: int, seed: int, values: Point, copies: int = 0) -> AlignConfig:
    """The run of one trial; `copies`: how often it has gone on as a copy of another one, in a run of its own.

    Raises: `ConfigError`.
    """
    tree = copy.deepcopy(config.base)
    own = {"name": trial_name(index, copies), "directory": f"{config.directory}/{config.name}/{TRIALS}", "seed": seed}
    for key, value in {**config.changes, **values, **own}.items():
        set_key(tree, key, value)
    return parse_config(tree)


def trial_name(index: int, copies: int = 0) -> str:
    """Of a trial and of its run."""
    return f"trial-{index:04d}" + (f".{copies}" if copies else "")


def config_of_point(config: SweepConfig, point: Mapping[str, Any]) -> AlignConfig:
    """The run of what Ray Tune varies; see `workflows.sweep.search.parameter_space`."""
    return trial_config(config, point["index"], point["seed"], point["values"], len(point.get("lineage", ())))


def points(config: SweepConfig) -> list[Point]:
    """All points of a search that does not learn."""
    search = config.search
    assert search.method in ("grid", "random", "sobol")
    return listed_points(config.space, search.method, search.trials, search.seed)


def trials(config: SweepConfig) -> int:
    """Number of trials."""
    if config.search.learns:
        assert config.search.trials is not None
        return config.search.trials
    return len(points(config)) * len(config.seeds)


def probed_configs(config: SweepConfig) -> list[AlignConfig]:
    """Runs at the extremes of the space: the largest demand is among them."""
    return [trial_config(config, 0, config.seeds[0], values) for values in probes(config.space)]


def _check_metrics(config: SweepConfig) -> None:
    for objective in config.metrics:
        if objective.metric not in METRICS:
            nearest = difflib.get_close_matches(objective.metric, METRICS, n=1, cutoff=0.0)[0]
            raise ConfigError(f"metrics: trials never report {objective.metric!r}; did you mean {nearest!r}?")
    names = [objective.metric for objective in config.metrics]
    if len(set(names)) < len(names):
        raise ConfigError(f"metrics: {', '.join(names)} names one twice")


def _check_space(config: SweepConfig) -> None:
    reserved = {"name", "directory", "seed"} & {*config.space, *config.changes}
    if reserved:
        raise ConfigError(
            f"{', '.join(sorted(reserved))} belongs to the sweep, not to its runs; seeds: [0, 1] varies it"
        )
    if both := config.space.keys() & config.changes.keys():
        raise ConfigError(f"{', '.join(sorted(both))} stands in changes and in space; remove one")
    if config.search.method == "grid":
        for key, axis in config.space.items():
            if axis.values is None and axis.points is None:
                raise ConfigError(f"space.{key}: a grid needs points, the number of values in the range")
    for values in probes(config.space):
        try:
            found = trial_config(config, 0, config.seeds[0], values)
        except ConfigError as error:
            shown = ", ".join(f"{key} = {value!r}" for key, value in values.items())
            raise ConfigError(f"the trial with {shown} can't be run: {error}") from None
        if not found.data.heldout and any(objective.metric in EVALUATED for objective in config.metrics):
            raise ConfigError("metrics: trials never report a win rate, because data.heldout names no prompts")


def _check_scheduler(config: SweepConfig) -> None:
    name = config.scheduler.name
    if name == "none":
        return
    if len(config.metrics) > 1:
        raise ConfigError(f"scheduler.name = {name!r} compares one metric, and there are several; choose none")
    base = trial_config(config, 0, config.seeds[0], probes(config.space)[0])
    if not 0 < base.evaluation.every < base.loop.steps:
        raise ConfigError(
            f"scheduler.name = {name!r} needs scores before the end: set base.evaluation.every below loop.steps = "
            f"{base.loop.steps}"
        )
    if name == "pbt":
        _check_population(config, base)
        return
    if varied := sorted(config.space.keys() & {*SAME_SCHEDULE}):
        raise ConfigError(
            f"scheduler.name = 'asha' compares trials at equal shares of the same schedule, and {', '.join(varied)} "
            "varies; choose none, or fix it"
        )


def _check_population(config: SweepConfig, base: AlignConfig) -> None:
    """Raises: `ConfigError` where a run can't go on from another one's checkpoint with other settings."""
    if config.search.learns:
        raise ConfigError(
            f"scheduler.name = 'pbt' alters settings itself: search.method = {config.search.method!r} has nothing to "
            "learn from; choose sobol, random or grid"
        )
    if trials(config) < SMALLEST_POPULATION:
        raise ConfigError(f"scheduler.name = 'pbt' needs at least {SMALLEST_POPULATION} trials, there is 1")
    for key, axis in config.space.items():
        if not (key == "learner.learning_rate" or key.startswith("objective.options.")):
            raise ConfigError(
                f"scheduler.name = 'pbt' can't alter {key} while a run goes on; it alters learner.learning_rate and "
                "objective.options"
            )
        if axis.values is not None or axis.integer:
            raise ConfigError(f"scheduler.name = 'pbt' needs a range of real numbers: space.{key}: {{low, high}}")
    every, checkpoints = base.evaluation.every, base.learner.checkpoint_every
    if every % checkpoints:
        raise ConfigError(
            f"scheduler.name = 'pbt' copies runs where they are evaluated: evaluation.every = {every} has to be a "
            f"multiple of learner.checkpoint_every = {checkpoints}"
        )
    if base.learner.checkpoints_kept < FEWEST_KEPT:
        raise ConfigError(
            f"scheduler.name = 'pbt' copies a checkpoint while its run goes on: learner.checkpoints_kept has to be at "
            f"least {FEWEST_KEPT}"
        )
    if replay := objective_of(base).update.replay:
        raise ConfigError(
            f"scheduler.name = 'pbt': a copy has no earlier batches, which objective.name = {base.objective.name!r} "
            f"trains again (replay {list(replay)})"
        )
