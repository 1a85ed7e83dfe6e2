"""Train preference models: `python -m workflows.preference_model --config configs/preference_model.yaml [--set ...]`.

Reads the configuration, checks the data, trains every member with Ray Train, measures each on held-out data, and
leaves folders that `from_pretrained` and our scorers load, with a model card each. Run again, it resumes.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import yaml
from ray.exceptions import GetTimeoutError
from rich.console import Console

from actors.models import ModelError
from actors.preference_config import PreferenceModelConfig
from actors.preference_training import METRICS_FILE, steps_of, train_loop
from actors.prompts import PromptError
from workflows.align import connect
from workflows.command_line import config_parser
from workflows.config import ConfigError, override, parse_tree, read_tree
from workflows.preference_model.card import write_card
from workflows.preference_model.evaluation import comparison_figures, predict, rating_figures
from workflows.preference_model.inputs import Inputs, check_inputs
from workflows.preflight import Demand, ResourceError, demand_table, shortage, supply
from workflows.run_directory import RunDirectoryError, environment
from workflows.training import RunFailed, Training, torch_trainer, unfinished

BAD_INPUT = (ConfigError, ModelError, PromptError, ResourceError, RunDirectoryError, RunFailed)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    shown = "configuration, data and resources"
    arguments = config_parser("preference-model", __doc__, "configs/preference_model.yaml", shown).parse_args(argv)
    console = Console()
    try:
        config = parse_tree(override(read_tree(arguments.config), arguments.set), PreferenceModelConfig)
        if arguments.dry_run:
            dry_run(config, arguments.address, console)
            return 0
        summary = train(config, arguments.address, console)
    except BAD_INPUT as error:
        Console(stderr=True).print(f"{type(error).__name__}: {error}", style="red", highlight=False, markup=False)
        return 1
    for name, figures in summary["models"].items():
        console.print(f"{config.directory}/{config.name}/{name}: {_headline(figures)}", highlight=False, markup=False)
    if summary["ensemble"]:
        console.print(f"mean of the members: {_headline(summary['ensemble'])}", highlight=False)
    return 0


def dry_run(config: PreferenceModelConfig, address: str | None, console: Console) -> None:
    """Show what would run, on which data and on what, and start nothing."""
    console.print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), highlight=False, markup=False)
    inputs = check_inputs(config)
    console.print(yaml.safe_dump({"data": inputs.facts}, sort_keys=False), highlight=False, markup=False)
    steps = steps_of(config, len(inputs.train))
    console.print(f"updates: {steps} for each of {config.members} members", highlight=False)
    connect(address)
    console.print(demand_table(_demands(config), supply()), highlight=False, markup=False)
    if reason := shortage(_demands(config), supply()):
        raise ResourceError(reason)


def train(config: PreferenceModelConfig, address: str | None = None, console: Console | None = None) -> dict[str, Any]:
    """One run, from its configuration to its model folders; returns what `summary.json` holds.

    Raises: one of `BAD_INPUT`, before anything is trained where that is possible.
    """
    console = console or Console()
    began = time.monotonic()
    inputs = check_inputs(config)
    with unfinished(config) as directory:
        connect(address)
        if reason := shortage(_demands(config), supply()):
            raise ResourceError(reason)
        about = environment()
        directory.write_json("environment.json", about)
        _train(config, inputs, directory.path, console)
        summary = {
            "status": "finished",
            **_evaluated(config, inputs, directory.path, console),
            "data": inputs.facts,
            "updates": config.members * steps_of(config, len(inputs.train)),
            "wall_seconds": time.monotonic() - began,
        }
        for name, figures in summary["models"].items():
            write_card(directory.path / name, config, inputs.facts, figures, about)
        directory.write_json("summary.json", summary)
    return summary


def _train(config: PreferenceModelConfig, inputs: Inputs, directory: Path, console: Console) -> None:
    options = config.training
    told = {"config": config, "records": ray.put(list(inputs.train))}
    training = Training(torch_trainer(train_loop, told, options, directory, checkpoints_kept=1))
    total = config.members * steps_of(config, len(inputs.train))
    training.watch(directory / METRICS_FILE, total, options.deadline, "training.deadline", console)


def _evaluated(config: PreferenceModelConfig, inputs: Inputs, directory: Path, console: Console) -> dict[str, Any]:
    """Figures of each model, and of the mean of all where there are several."""
    options = config.training
    console.print(f"measuring on {len(inputs.heldout)} held-out rows", highlight=False)
    task = ray.remote(predict).options(num_cpus=options.cpus, num_gpus=options.gpus)
    heldout: Any = ray.put(list(inputs.heldout))
    folders = config.folders()
    told = [task.remote(str(directory / name), heldout, options.threads, options.token_budget) for name in folders]
    try:
        predictions = ray.get(told, timeout=options.deadline * len(folders))
    except GetTimeoutError:
        raise RunFailed(f"waited {options.deadline:g} s a model for the evaluation (training.deadline)") from None
    figures: Any = rating_figures if config.objective.kind == "regression" else comparison_figures
    return {
        "models": {
            name: figures(values, inputs.heldout, inputs.train)
            for name, values in zip(folders, predictions, strict=True)
        },
        "ensemble": figures(np.mean(predictions, axis=0), inputs.heldout, inputs.train) if len(folders) > 1 else None,
    }


def _demands(config: PreferenceModelConfig) -> list[Demand]:
    options = config.training
    return [Demand(plane="training", actors=options.workers, cpus=options.cpus, gpus=options.gpus)]


def _headline(figures: dict[str, Any]) -> str:
    if "accuracy" not in figures:
        errors = (
            f"{name} {found['error']:.3g} (mean {found['error_of_mean']:.3g})"
            for name, found in figures["attributes"].items()
            if found["error"] is not None
        )
        return f"error on {figures['n']} held-out responses: {', '.join(errors)}"
    found = figures["accuracy"]
    baselines = ", ".join(f"{name} {share['share']:.3f}" for name, share in figures["baselines"].items())
    return (
        f"accuracy {found['share']:.3f} (95% interval {found['low']:.3f} to {found['high']:.3f}) on {found['n']} "
        f"held-out comparisons ({baselines}); calibration error {figures['calibration']['error']:.3f}"
    )


if __name__ == "__main__":
    sys.exit(main())
