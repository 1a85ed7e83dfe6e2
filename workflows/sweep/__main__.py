"""Sweep the loop with Ray Tune: `python -m workflows.sweep --config configs/sweep.yaml [--set key=value] [--dry-run]`.

A trial is a run of `align`. Leaves `trials.parquet`, one row a trial, and every trial's run directory. The same command
goes on with a sweep that was stopped or killed. `--address http://HEAD:8265` runs it on a remote cluster, as a job.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import yaml
from rich.console import Console

from actors.config import AlignConfig
from workflows.align import BAD_INPUT, connect
from workflows.command_line import config_parser
from workflows.config import ConfigError
from workflows.preflight import ResourceError, check_inputs, demand_table, demands, shortage, supply
from workflows.run_directory import RunDirectory
from workflows.sweep.config import TRIALS, SweepConfig, load_sweep, probed_configs, trials
from workflows.sweep.interruption import interruptible
from workflows.sweep.progress import INTERRUPTED, TABLE, SweepProgress
from workflows.sweep.search import parameter_space, scheduler, searcher
from workflows.sweep.submit import submit
from workflows.sweep.trial import STOP_SECONDS, AlignTrial

EXPERIMENT = "tune"
"""Ray Tune's own folder in the sweep directory."""
CHECKPOINTS_KEPT = 3
"""Of each trial whose run others may copy."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    arguments = parser().parse_args(argv)
    console = Console()
    try:
        if arguments.address and arguments.address.startswith(("http://", "https://")):
            return submit(arguments.address, _for_job(arguments), console)
        if arguments.address and arguments.address.startswith("ray://"):
            raise ConfigError(
                f"--address {arguments.address}: runs can't be driven through Ray Client; give the dashboard's "
                "address, for example http://HEAD:8265, and the sweep runs there as a job"
            )
        config = load_sweep(arguments.config, arguments.set)
        config = config.model_copy(update={"directory": str(Path(config.directory).resolve())})
        _check_inputs(config)
        connect(arguments.address)
        if arguments.dry_run:
            dry_run(config, console)
            return 0
        done = sweep(config, retry_failed=arguments.retry_failed)
    except BAD_INPUT as error:
        Console(stderr=True).print(f"{type(error).__name__}: {error}", style="red", highlight=False, markup=False)
        return 1
    path = Path(config.directory) / config.name / TABLE
    console.print(f"{done} of {trials(config)} trials ended; table: {path}", highlight=False, markup=False)
    if done < trials(config):
        console.print("interrupted; the same command goes on")
    return 0 if done == trials(config) else 1


def dry_run(config: SweepConfig, console: Console) -> None:
    """Show what would run and how many trials at once, and start nothing."""
    shown = config.model_dump(mode="json")
    console.print(yaml.safe_dump(shown, sort_keys=False), highlight=False, markup=False)
    together = concurrency(config)
    console.print("the largest trial:\n" + demand_table(demands(_largest(config)), supply()), highlight=False)
    console.print(f"trials: {trials(config)}, at once (max_concurrent_trials): {together}", highlight=False)


def sweep(config: SweepConfig, *, retry_failed: bool = False) -> int:
    """Run the sweep, or go on with it, on the cluster that this process is connected to; the number of ended trials.

    Raises: one of `BAD_INPUT`, before a trial starts.
    """
    import ray
    from ray import tune

    together = concurrency(config)
    directory = RunDirectory(config).open()
    # Trials name prompts and models as the person who started the sweep does, relative to the same folder. And the
    # progress of this sweep is shown by its own callback, not by Ray Tune.
    os.environ |= {"RAY_CHDIR_TO_TRIAL_DIR": "0", "RAY_AIR_NEW_OUTPUT": "0"}
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    experiment = str(directory.path / EXPERIMENT)
    # A trial's own process needs nothing that the planes compete for, and Ray Tune wants it to ask for something.
    memory, limit = 1, together if config.scheduler.name != "pbt" else None
    if config.scheduler.name == "pbt":
        # For Ray Tune a trial that waits for the others still runs; by its share of the memory it can tell them apart.
        memory = int(ray.cluster_resources()["memory"] / together)
    trainable = tune.with_resources(AlignTrial, {"memory": memory})
    try:
        if tune.Tuner.can_restore(experiment):
            tuner = tune.Tuner.restore(experiment, trainable, restart_errored=retry_failed)
        else:
            tuner = tune.Tuner(
                trainable,
                param_space=parameter_space(config),
                tune_config=tune.TuneConfig(
                    search_alg=searcher(config),
                    scheduler=scheduler(config, together),
                    num_samples=trials(config) if config.search.learns else 1,
                    max_concurrent_trials=limit,
                    # A process that is kept for the next trial goes on with a run that a scheduler has stopped.
                    reuse_actors=config.scheduler.name == "none",
                ),
                run_config=tune.RunConfig(
                    name=EXPERIMENT,
                    storage_path=str(directory.path),
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False, num_to_keep=CHECKPOINTS_KEPT),
                    failure_config=tune.FailureConfig(max_failures=config.retries),
                    callbacks=[SweepProgress(config, trials(config), together)],
                    verbose=0,
                ),
            )
        with interruptible(directory.path, directory.path / TRIALS, STOP_SECONDS):
            tuner.fit()
        return _ended(directory.path / TABLE)
    finally:
        directory.close()


def concurrency(config: SweepConfig) -> int:
    """Trials that the cluster holds at once, at most `max_concurrent_trials`.

    Raises: `ResourceError` when it can't hold the largest one.
    """
    wanted, nodes = demands(_largest(config)), supply()
    if reason := shortage(wanted, nodes):
        raise ResourceError(reason)
    together = 1
    while together < (config.max_concurrent_trials or trials(config)) and not shortage(wanted * (together + 1), nodes):
        together += 1
    return together


def parser() -> argparse.ArgumentParser:
    """The command line; the address may also be that of a cluster's jobs, http://HEAD:8265."""
    result = config_parser("sweep", __doc__, "configs/sweep.yaml", "trials and resources")
    result.add_argument("--retry-failed", action="store_true", help="run failed trials of a resumed sweep again")
    return result


def _for_job(arguments: argparse.Namespace) -> list[str]:
    """The same command without its address."""
    kept = ["--config", arguments.config]
    for entry in arguments.set:
        kept += ["--set", entry]
    switches = {"--dry-run": arguments.dry_run, "--retry-failed": arguments.retry_failed}
    return kept + [name for name, given in switches.items() if given]


def _check_inputs(config: SweepConfig) -> None:
    """Every model, prompt file and panel that a trial may use, each once."""
    seen = []
    for probe in probed_configs(config):
        parts = (probe.model, probe.data, probe.scoring, probe.rollout, probe.publication, probe.teacher)
        if parts not in seen:
            seen.append(parts)
            check_inputs(probe)


def _largest(config: SweepConfig) -> AlignConfig:
    """The run that asks for most."""
    return max(probed_configs(config), key=_demanded)


def _demanded(config: AlignConfig) -> tuple[float, float]:
    wanted = demands(config)
    return sum(d.actors * d.gpus for d in wanted), sum(d.actors * d.cpus for d in wanted)


def _ended(table: Path) -> int:
    """Trials that came to an end, good or bad."""
    if not table.exists():
        return 0
    return sum(reason != INTERRUPTED for reason in pq.read_table(table, columns=["reason"])["reason"].to_pylist())


if __name__ == "__main__":
    sys.exit(main())
