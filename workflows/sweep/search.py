"""The search algorithm and the scheduler that Ray Tune runs a sweep with."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workflows.sweep.config import SearchConfig, SweepConfig, points, trials
from workflows.sweep.space import Axis, Point
from workflows.sweep.trial import SHARE

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.samplers import BaseSampler
    from ray.tune.schedulers import TrialScheduler
    from ray.tune.search import Searcher

POINT = "point/"
"""Where a suggestion is put in what the trial gets."""


def parameter_space(config: SweepConfig) -> dict[str, Any]:
    """What Ray Tune varies: all points with all seeds, or nothing where a searcher suggests them."""
    from ray import tune

    fixed = {"sweep": config.model_dump(mode="json")}
    if config.search.learns:
        return fixed
    runs = [(values, seed) for values in points(config) for seed in config.seeds]
    listed = [{"index": i, "seed": seed, "values": values} for i, (values, seed) in enumerate(runs)]
    return fixed | {"point": tune.grid_search(listed)}


def searcher(config: SweepConfig) -> "Searcher | None":
    """Optuna's model of the results, for a search that learns."""
    if not config.search.learns:
        return None
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    one = config.metrics[0]
    several = len(config.metrics) > 1
    return OptunaSearch(
        Suggestion(space=config.space, seeds=config.seeds),
        metric=[entry.metric for entry in config.metrics] if several else one.metric,
        mode=[entry.mode for entry in config.metrics] if several else one.mode,
        sampler=sampler(config.search),
    )


def scheduler(config: SweepConfig, together: int) -> "TrialScheduler | None":
    """Asynchronous successive halving (Li et al. 1810.05934) or population based training, by share of the schedule.

    `together`: trials that run at once.
    """
    if config.scheduler.name == "none":
        return None
    if config.scheduler.name == "pbt":
        from workflows.sweep.population import Population

        return Population(config, synchronous=together < trials(config))
    from ray.tune.schedulers import ASHAScheduler

    return ASHAScheduler(
        time_attr=SHARE,
        metric=config.metrics[0].metric,
        mode=config.metrics[0].mode,
        max_t=100,
        grace_period=max(1, round(100 * config.scheduler.grace)),
        reduction_factor=config.scheduler.reduction,
        # A trial that has come to its end must save its policy.
        stop_last_trials=False,
    )


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """Optuna's definition of the space: it is called with a trial, and returns what the trial's run is to be."""

    space: Mapping[str, Axis]
    seeds: tuple[int, ...]

    def __call__(self, trial: "Trial") -> dict[str, Any]:
        """The point that Optuna suggests for `trial`."""
        number: int = trial.number
        values: Point = {key: suggest(trial, f"{POINT}values/{key}", axis) for key, axis in self.space.items()}
        found = {f"{POINT}values/{key}": value for key, value in values.items()}
        return found | {f"{POINT}index": number, f"{POINT}seed": self.seeds[number % len(self.seeds)]}


def suggest(trial: "Trial", name: str, axis: Axis) -> Any:
    """One value of an axis; listed values, which may be trees, are chosen by their place."""
    if axis.values is not None:
        return axis.values[trial.suggest_categorical(name, range(len(axis.values)))]
    low, high = axis.ends
    if axis.integer:
        return trial.suggest_int(name, int(low), int(high), log=axis.log)
    return trial.suggest_float(name, low, high, log=axis.log)


def sampler(search: SearchConfig) -> "BaseSampler":
    """Optuna's model of a search that learns."""
    from optuna.exceptions import ExperimentalWarning
    from optuna.samplers import GPSampler, TPESampler

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        if search.method == "tpe":
            return TPESampler(seed=search.seed, n_startup_trials=search.startup, multivariate=True, group=False)
        return GPSampler(seed=search.seed, n_startup_trials=search.startup, deterministic_objective=False)
