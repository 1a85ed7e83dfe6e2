"""Align a language model: `python -m workflows.align --config configs/demo.yaml [--set key=value ...] [--dry-run]`.

Reads the configuration, checks everything that can be checked, brings up the planes, waits, and leaves a run
directory with the aligned model and a report. Run again, it resumes where it was.
"""

import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import ray
import yaml
from ray.exceptions import RayActorError
from rich.console import Console

from actors.conductor import Conductor
from actors.config import AlignConfig
from actors.endpoint import EndpointError
from actors.models import ModelError
from actors.prompts import PromptError
from actors.scorer import Panel, ScorerError
from actors.teacher import probe
from actors.training import train_loop
from workflows.command_line import config_parser
from workflows.config import ConfigError, load_config
from workflows.diagnostics import Diagnostics
from workflows.preflight import (
    Inputs,
    ResourceError,
    check_inputs,
    demand_table,
    demands,
    shortage,
    supply,
)
from workflows.progress import RunProgress
from workflows.report import write_report
from workflows.run_directory import RunDirectory, RunDirectoryError, environment
from workflows.training import RunFailed, Training, torch_trainer, unfinished

POLL_SECONDS = 0.5
DRIVER_RESTARTS = 2
SAMPLES = 16

WORKERS_END_SECONDS = 60.0
"""How long the learner's workers may take to end after a run has failed."""

Watch = Callable[[dict[str, Any]], str | None]
"""Is shown every status of a run; a text that it returns ends the run, as the reason."""


BAD_INPUT = (
    ConfigError,
    ModelError,
    PromptError,
    ScorerError,
    EndpointError,
    ResourceError,
    RunDirectoryError,
    RunFailed,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    arguments = config_parser("align", __doc__, "configs/demo.yaml", "configuration and resources").parse_args(argv)
    console = Console()
    try:
        config = load_config(arguments.config, arguments.set)
        if arguments.dry_run:
            dry_run(config, arguments.address, console)
            return 0
        summary = align(config, arguments.address, console)
    except BAD_INPUT as error:
        Console(stderr=True).print(f"{type(error).__name__}: {error}", style="red", highlight=False, markup=False)
        return 1
    _print_result(summary, config, console)
    return 0


def dry_run(config: AlignConfig, address: str | None, console: Console) -> None:
    """Show what would run and on what, and start nothing."""
    console.print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), highlight=False, markup=False)
    inputs = check_inputs(config)
    console.print(f"prompts: {len(inputs.prompts)}, held out: {len(inputs.heldout)}", highlight=False)
    connect(address)
    console.print(demand_table(demands(config), supply()), highlight=False, markup=False)
    if reason := shortage(demands(config), supply()):
        raise ResourceError(reason)


def align(
    config: AlignConfig, address: str | None = None, console: Console | None = None, watch: Watch | None = None
) -> dict[str, Any]:
    """One run, from its configuration to its run directory; returns what `summary.json` holds.

    `watch` may end the run.
    Raises: one of `BAD_INPUT`, before any engine starts where that is possible.
    """
    console = console or Console()
    began = time.monotonic()
    inputs = check_inputs(config)
    with unfinished(config) as directory:
        if config.teacher and config.teacher.endpoint:
            probe(config, str(directory.path))
        Panel(config.scoring, str(directory.path)).probe()
        connect(address)
        wait_for_resources(config)
        directory.write_json("environment.json", environment())
        diagnostics = Diagnostics(config, directory.path, partial(console.print, style="yellow", markup=False))

        def watched(status: dict[str, Any]) -> str | None:
            return diagnostics(status) or (watch(status) if watch else None)

        result = _run_with_restarts(config, inputs, directory, console, watched)
        diagnostics.close(config.deadlines.publish)
        summary = _summary(config, result, time.monotonic() - began)
        directory.write_lines("samples.jsonl", _samples(result["comparisons"]))
        directory.write_json("summary.json", summary)
        write_report(directory.path)
        if reason := result["failure"]:
            raise RunFailed(f"{reason}\nThe run directory {directory.path} is whole; the same command resumes.")
    return summary


def connect(address: str | None) -> None:
    """Join the cluster at `address` or of RAY_ADDRESS, or start Ray on this machine."""
    if ray.is_initialized():
        return
    ray.init(
        address=address,
        log_to_driver=False,
        logging_level=logging.ERROR,
        include_dashboard=None if address else False,
    )


def wait_for_resources(config: AlignConfig) -> None:
    """Raise `ResourceError` unless the cluster holds the planes, within `deadlines.cluster` seconds if it grows."""
    deadline = time.monotonic() + config.deadlines.cluster
    wanted = demands(config)
    if config.deadlines.cluster:
        from ray.autoscaler.sdk import request_resources

        request_resources(bundles=[{"CPU": d.cpus, "GPU": d.gpus} for d in wanted for _ in range(d.actors)])
    while reason := shortage(wanted, supply()):
        if time.monotonic() >= deadline:
            raise ResourceError(reason)
        time.sleep(1.0)


def _run_with_restarts(
    config: AlignConfig, inputs: Inputs, directory: RunDirectory, console: Console, watch: Watch | None
) -> dict[str, Any]:
    """Run the loop; if the conductor itself is lost, start again from the last checkpoint."""
    for remaining in reversed(range(DRIVER_RESTARTS + 1)):
        try:
            return _run_once(config, inputs, directory, console, watch)
        except RayActorError as error:
            if not remaining:
                raise RunFailed(f"the conductor was lost {DRIVER_RESTARTS + 1} times: {error}") from error
            console.print("the conductor or its node was lost; going on from the last checkpoint")
    raise AssertionError("unreachable")


def _run_once(
    config: AlignConfig, inputs: Inputs, directory: RunDirectory, console: Console, watch: Watch | None
) -> dict[str, Any]:
    # Not into the placement group of a Ray Tune trial, which has no room for the planes.
    options = ray.remote(Conductor).options(num_cpus=0, max_concurrency=10_000, scheduling_strategy="DEFAULT")
    conductor: Any = options.remote(config, inputs.prompts, inputs.heldout, str(directory.path))
    buffer = ray.get(conductor.start.remote())
    told = {"config": config, "conductor": conductor, "buffer": buffer, "canaries": inputs.canaries}
    learner = config.learner
    training = Training(torch_trainer(train_loop, told, learner, directory.path, learner.checkpoints_kept))
    try:
        # Not before: Ray loses sight of the placement group of a trainer that is killed while it starts.
        if watch and (reason := watch(ray.get(conductor.status.remote(), timeout=config.deadlines.start))):
            raise RunFailed(f"{reason}, before it began")
        training.start()
        with RunProgress(config.loop.steps, console) as progress:
            while True:
                status = ray.get(conductor.status.remote(), timeout=config.deadlines.start)
                progress.show(status)
                if status["finished"]:
                    break
                if watch and (reason := watch(status)):
                    ray.get(conductor.stop.remote(reason))
                if training.error is not None:
                    ray.get(conductor.stop.remote(f"the learner failed: {training.error}"))
                time.sleep(POLL_SECONDS)
        result: dict[str, Any] = ray.get(conductor.result.remote())
        if result["failure"]:
            # Ray keeps the placement group of a trainer that is killed until the whole job ends.
            training.join(WORKERS_END_SECONDS)
        else:
            training.finish(config.deadlines.publish, "deadlines.publish")
        ray.get(conductor.close.remote(), timeout=30)
        return result
    finally:
        ray.kill(conductor)
        ray.kill(buffer)


def _summary(config: AlignConfig, result: dict[str, Any], wall_seconds: float) -> dict[str, Any]:
    kept = {key: value for key, value in result.items() if key not in ("comparisons", "failure")}
    return {
        "status": "failed" if result["failure"] else "finished",
        "failure": result["failure"],
        **kept,
        "wall_seconds": wall_seconds,
        "seed": config.seed,
        "model": config.model.name,
        "objective": config.objective.name,
        "versions": environment()["versions"],
    }


def _samples(comparisons: Sequence[Any]) -> list[dict[str, Any]]:
    return [
        {"prompt": c.prompt, "start": c.start, "final": c.final, "probability": c.probability, "judges": c.judges}
        for c in comparisons[:SAMPLES]
    ]


def _print_result(summary: dict[str, Any], config: AlignConfig, console: Console) -> None:
    for key, judged in (("win_rate", ""), ("gold_win_rate", ", judged by the held-out scorers")):
        if rate := summary.get(key):
            console.print(
                f"win rate of the final policy against the start on {rate['n']} held-out prompts{judged}: "
                f"{rate['mean']:.3f}  (95% interval {rate['low']:.3f} to {rate['high']:.3f})",
                highlight=False,
            )
    console.print(
        f"ledger: {json.dumps(summary['ledger'])}; wall time {summary['wall_seconds']:.0f} s", highlight=False
    )
    folder = f"{config.directory}/{config.name}"
    console.print(f"model: {folder}/policy   report: {folder}/report.html", highlight=False, markup=False)


if __name__ == "__main__":
    sys.exit(main())
