"""Population based training (Jaderberg et al. 1711.09846): the worst quarter goes on as altered copies of the best.

Ray Tune decides who copies whom, and when. A copy keeps its donor's seed and so the donor's order of prompts; its
settings are explored from the donor's.
"""

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from ray.tune.experiment import Trial
from ray.tune.schedulers import PopulationBasedTraining

from workflows.sweep.config import SchedulerConfig, SweepConfig, trial_name
from workflows.sweep.space import Axis, Point
from workflows.sweep.trial import SHARE

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController

QUANTILE = 0.25
"""Share of the population that copies, and that is copied."""
FACTOR = 1.25
"""Between a setting and its altered copy."""


class Population(PopulationBasedTraining):
    """Ray Tune's scheduler over the points of a sweep."""

    def __init__(self, config: SweepConfig, synchronous: bool) -> None:
        self._sweep = config
        super().__init__(
            time_attr=SHARE,
            metric=config.metrics[0].metric,
            mode=config.metrics[0].mode,
            perturbation_interval=100.0 * config.scheduler.interval,
            # Ray Tune asks for a rule, and would not tell it who copies: `_get_new_config` stands in for it.
            custom_explore_fn=copy.deepcopy,
            quantile_fraction=QUANTILE,
            log_config=False,
            # Where not all members run at once, those that run have to wait for the others.
            synch=synchronous,
        )

    def choose_trial_to_run(self, tune_controller: "TuneController") -> Trial | None:
        """Who runs next. Ray Tune would let members wait for ever for one that has ended before them, or failed."""
        living = []
        for trial in tune_controller.get_trials():
            if trial.is_finished():
                state: Any = self._trial_state[trial]
                state.last_train_time = max(state.last_train_time, self._next_perturbation_sync)
            else:
                living.append(trial)
        if self._synch and living and all(self._waits(trial) for trial in living):
            # Members are compared when one of them reports, and nobody is left to do so.
            reported: Any = self._trial_state[living[0]].last_result
            self.on_trial_result(tune_controller, living[0], reported)
        chosen: Trial | None = super().choose_trial_to_run(tune_controller)
        return chosen

    def _waits(self, trial: Trial) -> bool:
        """Whether the member has come to the place where all are compared."""
        reached: float = self._trial_state[trial].last_train_time
        return trial.status == Trial.PAUSED and reached >= self._next_perturbation_sync

    def _checkpoint_or_exploit(
        self, trial: Trial, tune_controller: "TuneController", upper_quantile: list[Trial], lower_quantile: list[Trial]
    ) -> None:
        """Ray Tune would keep only the checkpoint of a member that is among the best when it reports.

        Among members that all run at once the first to report is never, and may yet be the best.
        """
        copied = self._num_perturbations
        super()._checkpoint_or_exploit(trial, tune_controller, upper_quantile, lower_quantile)
        if not self._synch and trial not in upper_quantile and self._num_perturbations == copied:
            state: Any = self._trial_state[trial]
            state.last_checkpoint = tune_controller._schedule_trial_save(trial, result=state.last_result)

    def _get_new_config(self, trial: Trial, trial_to_clone: Trial) -> tuple[dict[str, Any], dict[str, Any]]:
        copied: Any = self._trial_state[trial_to_clone].last_result
        return descendant(self._sweep, trial.config, trial_to_clone.config, int(copied["version"])), {}


def descendant(
    config: SweepConfig, member: Mapping[str, Any], donor: Mapping[str, Any], version: int
) -> dict[str, Any]:
    """What a member's trial gets after it has copied `donor` at `version`; its own number stays.

    Determined by the sweep's seed, the member, and how often it has copied.
    """
    own, parent = member["point"], donor["point"]
    lineage = [*own.get("lineage", ()), f"{trial_name(parent['index'])} at version {version}"]
    generator = np.random.default_rng([config.search.seed, own["index"], len(lineage)])
    values = explored(parent["values"], config.space, config.scheduler, generator)
    point = {"index": own["index"], "seed": parent["seed"], "values": values, "lineage": lineage}
    return copy.deepcopy(dict(donor)) | {"point": point}


def explored(
    values: Point, space: Mapping[str, Axis], options: SchedulerConfig, generator: np.random.Generator
) -> Point:
    """Every setting times or over `FACTOR` within its range, or with the chance `options.resample` drawn anew."""
    found: Point = {}
    for key, axis in space.items():
        if generator.random() < options.resample:
            found[key] = axis.at(float(generator.random()))
        else:
            found[key] = axis.exact(values[key] * (FACTOR if generator.random() < 0.5 else 1.0 / FACTOR))
    return found
