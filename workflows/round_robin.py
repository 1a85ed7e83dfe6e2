"""Finished runs against each other and their start: `python -m workflows.round_robin RUN ... --prompts FILE`.

Each policy answers every prompt several times, in an engine of its own, one after the other; what it answered is kept
in its run directory. The runs' own panel judges all answers to a prompt against each other. Runs take part that agree
on the start, on how they sample and on the panel: otherwise a win rate would compare two things at once.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from rich.console import Console

from actors.config import AlignConfig
from actors.deadlines import DeadlineExceeded
from actors.models import ModelError
from actors.planes import sampling_of
from actors.prompts import PromptError
from actors.records import SCHEMA, Group, GroupRequest, Message, Part, derive_seed, from_arrow, to_arrow
from actors.rollout import RolloutEngine, engine_environment
from actors.scorer import Scorer, ScorerError
from algorithms.preference import FloatArray
from algorithms.tournament import policy_win_rates, standings
from workflows.align import connect
from workflows.config import ConfigError, load_config, objective_of
from workflows.preflight import check_inputs
from workflows.round_robin_report import write_results

START = "start"
SERVED = "reference"
"""The named policy under which an engine serves a model folder as it is."""
COMPARED = (
    ("model", ("name", "dtype", "context")),
    ("data", ("system",)),
    ("rollout", ("max_new_tokens", "temperature", "top_p", "top_k", "allowed_tokens")),
    ("scoring", ("panel", "truncation_penalty")),
)
"""Keys that runs have to agree on."""


class RoundRobinError(ValueError):
    """Runs that can't be compared, or answers that can't be judged."""


BAD_INPUT = (RoundRobinError, ConfigError, ModelError, PromptError, ScorerError, DeadlineExceeded)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """A policy that takes part: its model, and the run directory that keeps its answers."""

    name: str
    model: str
    directory: Path
    config: AlignConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    arguments = _parser().parse_args(argv)
    console = Console()
    try:
        contestants = load_contestants([Path(run) for run in arguments.runs])
        questions = load_questions(contestants[0].config, arguments.prompts)
        connect(arguments.address)
        answers = [answers_of(c, questions, arguments.samples, arguments.seed, console) for c in contestants]
        scored = judge(merged(contestants, answers), contestants[0].config)
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
    return [replace(first, name=START, model=first.config.model.name), *runs]


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
    return Contestant(name=config.name, model=str(directory / "policy"), directory=directory, config=config)


def differing_keys(one: AlignConfig, other: AlignConfig) -> list[str]:
    """Keys that two runs have to agree on and do not, with both values."""
    return [
        f"{component}.{key}: {before!r} and {after!r}"
        for component, keys in COMPARED
        for key in keys
        if (before := getattr(getattr(one, component), key)) != (after := getattr(getattr(other, component), key))
    ]


def load_questions(config: AlignConfig, path: str) -> tuple[tuple[Message, ...], ...]:
    """The prompts of a file as the runs ask them, checked with their model and panel."""
    data = config.data.model_copy(update={"prompts": path, "heldout": path})
    return check_inputs(config.model_copy(update={"data": data, "teacher": None})).heldout


def answers_of(
    contestant: Contestant, questions: Sequence[tuple[Message, ...]], samples: int, seed: int, console: Console
) -> list[Group]:
    """`samples` answers to each question, from the run directory or, the first time, from an engine."""
    asked = requests(contestant.config, questions, samples, seed)
    path = cache_path(contestant, asked)
    if path.exists():
        console.print(f"{contestant.name}: answers of an earlier round", highlight=False)
    else:
        console.print(f"{contestant.name}: {samples} answers to each of {len(questions)} prompts", highlight=False)
        part = path.with_suffix(".part")
        pq.write_table(pa.Table.from_batches(generate(contestant, asked), SCHEMA), part)
        part.rename(path)
    return from_arrow(pq.read_table(path, schema=SCHEMA))


def requests(
    config: AlignConfig, questions: Sequence[tuple[Message, ...]], samples: int, seed: int
) -> list[GroupRequest]:
    """What every contestant is asked, with the same seeds: two equal policies give equal answers."""
    return [
        GroupRequest(
            id=f"round-robin-{i:06d}",
            index=i,
            epoch=0,
            version=0,
            messages=messages,
            parts=(
                Part(
                    role="pair",
                    policy=SERVED,
                    seeds=tuple(derive_seed(seed, "round-robin", i, k) for k in range(samples)),
                    sampling=sampling_of(config.rollout),
                ),
            ),
        )
        for i, messages in enumerate(questions)
    ]


def cache_path(contestant: Contestant, asked: Sequence[GroupRequest]) -> Path:
    """Where the answers to exactly these requests are kept."""
    told = json.dumps([asdict(request) for request in asked]).encode()
    digest = hashlib.blake2b(told, digest_size=6).hexdigest()
    return contestant.directory / f"round-robin-{'start' if contestant.name == START else 'policy'}-{digest}.parquet"


def generate(contestant: Contestant, asked: Sequence[GroupRequest]) -> list[pa.RecordBatch]:
    """Answers of a contestant's model, in an engine that lives only for this."""
    model = contestant.config.model.model_copy(update={"name": contestant.model})
    config = contestant.config.model_copy(update={"model": model})
    options = ray.remote(RolloutEngine).options(
        num_cpus=config.rollout.cpus,
        num_gpus=config.rollout.gpus,
        max_concurrency=1000,
        runtime_env={"env_vars": engine_environment(config)},
    )
    engine: Any = options.remote(contestant.name, config, (SERVED,))
    try:
        _collect([engine.start.remote()], config.deadlines.start, f"the engine of {contestant.name} (deadlines.start)")
        batches = [engine.generate.remote(request)[1] for request in asked]
        what = f"the next answer of {contestant.name} (deadlines.generate)"
        answers: list[pa.RecordBatch] = _collect(batches, config.deadlines.generate, what)
        _collect([engine.stop.remote()], config.deadlines.start, f"the engine of {contestant.name} to end")
        return answers
    finally:
        ray.kill(engine)


def merged(contestants: Sequence[Contestant], answers: Sequence[Sequence[Group]]) -> list[Group]:
    """One group a prompt, with the answers of all contestants under their names."""
    groups = []
    for rows in zip(*answers, strict=True):
        candidates = tuple(
            replace(candidate, policy=contestant.name)
            for contestant, group in zip(contestants, rows, strict=True)
            for candidate in group.candidates
        )
        groups.append(replace(rows[0], candidates=candidates))
    return groups


def judge(groups: Sequence[Group], config: AlignConfig) -> list[Group]:
    """The groups with the panel's verdicts, free of the noise that a run may add for its learner.

    Raises: `RoundRobinError` with the judge's reason for a group that can't be judged.
    """
    scoring = config.scoring.model_copy(update={"labels": "probability", "flip_rate": 0.0})
    options = ray.remote(Scorer).options(num_cpus=scoring.cpus)
    scorers: list[Any] = [options.remote(f"scorer-{i}", scoring) for i in range(scoring.scorers)]
    try:
        pairs = [scorers[i % len(scorers)].score.remote(to_arrow([group])) for i, group in enumerate(groups)]
        verdicts = _collect([verdict for verdict, _ in pairs], config.deadlines.score, "a verdict (deadlines.score)")
        for group, (summary, detail) in zip(groups, verdicts, strict=True):
            if summary.rejection:
                raise RoundRobinError(f"the answers to prompt {group.index} can't be judged: {detail}")
        return [from_arrow(batch)[0] for batch in ray.get([scored for _, scored in pairs])]
    finally:
        for scorer in scorers:
            ray.kill(scorer)


def outcomes(scored: Sequence[Group], names: Sequence[str]) -> FloatArray:
    """Win rates [Q, M, M] of the named policies on each prompt."""
    place: Mapping[str, int] = {name: i for i, name in enumerate(names)}
    return np.stack(
        [policy_win_rates(_verdict(group), [place[c.policy] for c in group.candidates], len(names)) for group in scored]
    )


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


def mean_length(groups: Sequence[Group]) -> float:
    """Mean tokens of an answer."""
    return float(np.mean([len(candidate.token_ids) for group in groups for candidate in group.candidates]))


def _verdict(group: Group) -> FloatArray:
    if group.preference is None:
        raise RoundRobinError(f"the answers to prompt {group.index} were not judged")
    return group.preference


def _collect(references: Sequence[Any], seconds: float, what: str) -> Any:
    """The values of all references, as long as one comes every `seconds`."""
    pending = list(references)
    while pending:
        done, pending = ray.wait(pending, timeout=seconds)
        if not done:
            raise DeadlineExceeded(f"waited {seconds:g} s for {what}")
    return ray.get(list(references))


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
