"""Finished runs against each other and their start: `python -m workflows.round_robin RUN ... --prompts FILE`.

Each policy answers every prompt several times, in an engine of its own, one after the other; what it answered is kept
in its run directory. The runs' own panel judges all answers to a prompt against each other. Runs take part that agree
on the start, on how they sample and on the panel: otherwise a win rate would compare two things at once.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from actors.config import AlignConfig
from actors.deadlines import DeadlineExceeded
from actors.models import ModelError
from actors.prompts import PromptError
from actors.scorer import ScorerError
from algorithms.tournament import standings
from workflows.align import connect
from workflows.answers import Contestant, NotJudged, answers_of, judge, load_questions, mean_length, merged, outcomes
from workflows.config import ConfigError, load_config, objective_of
from workflows.round_robin_report import write_results

START = "start"
COMPARED = (
    ("model", ("name", "dtype", "context")),
    ("data", ("system",)),
    ("rollout", ("max_new_tokens", "temperature", "top_p", "top_k", "allowed_tokens")),
    ("scoring", ("panel", "combine", "truncation_penalty")),
)
"""Keys that runs have to agree on."""


class RoundRobinError(ValueError):
    """Runs that can't be compared."""


BAD_INPUT = (RoundRobinError, NotJudged, ConfigError, ModelError, PromptError, ScorerError, DeadlineExceeded)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    arguments = _parser().parse_args(argv)
    console = Console()
    try:
        contestants = load_contestants([Path(run) for run in arguments.runs])
        questions = load_questions(contestants[0].config, arguments.prompts)
        connect(arguments.address)
        answers = [answers_of(c, questions, arguments.samples, arguments.seed, console) for c in contestants]
        scored = judge(merged(contestants, answers), contestants[0].config, contestants[0].directory)
    except BAD_INPUT as error:
        Console(stderr=True).print(f"{type(error).__name__}: {error}", style="red", highlight=False, markup=False)
        return 1
    names = [contestant.name for contestant in contestants]
    found = standings(outcomes(scored, names), seed=arguments.seed)
    about = {
        "samples": arguments.samples,
        "runs": {contestant.name: described(contestant) for contestant in contestants[1:]},
        "panel": contestants[0].config.model_dump(mode="json")["scoring"]["panel"],
        "tokens": dict(zip(names, map(mean_length, answers), strict=True)),
    }
    paths = write_results(Path(arguments.output), names, found, about)
    console.print("wrote " + ", ".join(str(path) for path in paths), highlight=False, markup=False)
    return 0


def load_contestants(directories: Sequence[Path]) -> list[Contestant]:
    """The start, and the policy of each run.

    Raises: `RoundRobinError` for a run that is not finished, two of one name, or runs that may not be compared.
    """
    runs = [_load_run(directory) for directory in directories]
    names = [run.name for run in runs]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1 or name == START]:
        raise RoundRobinError(f"every policy needs a name of its own, but these are taken: {', '.join(twice)}")
    first = runs[0]
    for run in runs[1:]:
        if differing := differing_keys(first.config, run.config):
            raise RoundRobinError(
                f"{first.name} and {run.name} can't be compared, because their configurations differ in what has to "
                "be the same:\n  " + "\n  ".join(differing)
            )
    return [replace(first, name=START, model=first.config.model.name, prefix="round-robin-start"), *runs]


def _load_run(directory: Path) -> Contestant:
    missing = [name for name in ("config.yaml", "summary.json", "policy") if not (directory / name).exists()]
    if missing:
        raise RoundRobinError(f"{directory} is no finished run: it lacks {', '.join(missing)}")
    status = json.loads((directory / "summary.json").read_text(encoding="utf-8"))["status"]
    if status != "finished":
        raise RoundRobinError(f"the run in {directory} is {status}; the command that started it resumes it")
    config = load_config(directory / "config.yaml")
    # Whole paths, because engines need not run where this was asked.
    directory = directory.resolve()
    return Contestant(
        name=config.name,
        model=str(directory / "policy"),
        config=config,
        directory=directory,
        prefix="round-robin-policy",
    )


def differing_keys(one: AlignConfig, other: AlignConfig) -> list[str]:
    """Keys that two runs have to agree on and do not, with both values."""
    return [
        f"{component}.{key}: {before!r} and {after!r}"
        for component, keys in COMPARED
        for key in keys
        if (before := getattr(getattr(one, component), key)) != (after := getattr(getattr(other, component), key))
    ]


def described(contestant: Contestant) -> dict[str, Any]:
    """What a reader has to know of a run: its objective, and how much it was given."""
    config = contestant.config
    summary = json.loads((contestant.directory / "summary.json").read_text(encoding="utf-8"))
    return {
        "objective": config.objective.name,
        "options": config.objective.options,
        "versions": config.loop.steps,
        "completions": summary["ledger"]["trained"] * objective_of(config).sampling.candidates,
        "seconds": summary["wall_seconds"],
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nashloop round-robin", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="directory of a finished run")
    parser.add_argument("--prompts", required=True, help="held-out prompts, JSONL or Parquet")
    parser.add_argument("--output", required=True, help="where to write; .md, .json and .png are added")
    parser.add_argument("--samples", type=int, default=4, help="answers of each policy to each prompt")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--address", help="Ray cluster to join; otherwise RAY_ADDRESS, otherwise this machine")
    return parser


if __name__ == "__main__":
    sys.exit(main())
