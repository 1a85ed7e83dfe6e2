"""Evaluate policies: `python -m workflows.evaluate --policy A --against B --scorers module:function --prompts FILE`.

Every policy answers every prompt in a real engine; the scorers judge all answers to a prompt against each other, and
gold scorers, which no policy was trained on, may judge them again. Leaves `report.html`, `evaluation.json`, and every
judged pair in `pairs.parquet`. What a policy answered is kept there too, and asked for again only when something
about it is another.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from rich.console import Console
from rich.table import Table

from actors.config import AlignConfig
from actors.records import Group, Message
from actors.scorer import prompt_text
from workflows.align import BAD_INPUT as BAD_RUN
from workflows.align import connect
from workflows.answers import Contestant, NotJudged, answers_of, collect, judge, load_questions, merged, verdict
from workflows.evaluate.figures import Judged, summarise
from workflows.evaluate.likelihood import Measured, measure
from workflows.evaluate.policies import (
    EvaluationError,
    Named,
    check_names,
    check_vocabularies,
    checkpoint_policies,
    contestants,
    export_checkpoints,
    parse_policy,
    settings,
)
from workflows.evaluate.report import write_report
from workflows.round_robin import BAD_INPUT as BAD_ROUND
from workflows.run_directory import environment

BAD_INPUT = (*BAD_RUN, *BAD_ROUND, EvaluationError, NotJudged)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    arguments = parser().parse_args(argv)
    console = Console()
    try:
        summary = evaluate(arguments, console)
    except BAD_INPUT as error:
        Console(stderr=True).print(f"{type(error).__name__}: {error}", style="red", highlight=False, markup=False)
        return 1
    console.print(table(summary))
    console.print(f"report: {arguments.output}/report.html", highlight=False, markup=False)
    return 0


def evaluate(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Sample, judge, measure and write; returns what `evaluation.json` holds.

    Raises: one of `BAD_INPUT`, before any engine starts where that is possible.
    """
    output = Path(arguments.output)
    check_arguments(arguments)
    policies = named_policies(arguments, output)
    config, gold = configurations(arguments, policies[0])
    questions = checked_questions(arguments, policies, config, gold)
    output.mkdir(parents=True, exist_ok=True)
    if arguments.checkpoints:
        export_checkpoints(Path(arguments.checkpoints), policies)
    taking_part = contestants(policies, config, output / "answers")
    connect(arguments.address)
    answers = [answers_of(c, questions, arguments.samples, arguments.seed, console) for c in taking_part]
    groups = merged(taking_part, answers)
    console.print(f"judging {len(groups)} prompts, {len(groups[0].candidates)} answers each", highlight=False)
    judged = Judged(
        names=tuple(c.name for c in taking_part),
        proxy=judge(groups, config, output),
        gold=judge(groups, gold, output) if gold else None,
    )
    measured = likelihoods(taking_part, judged.proxy[: arguments.likelihood_prompts], console)
    figures = summarise(judged, measured, elo=arguments.elo, seed=arguments.seed)
    summary = {**about(arguments, policies, config, gold), **figures}
    pq.write_table(pairs(judged), output / "pairs.parquet")
    (output / "evaluation.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    write_report(output, summary, judged)
    return summary


def about(
    arguments: argparse.Namespace, policies: Sequence[Named], config: AlignConfig, gold: AlignConfig | None
) -> dict[str, Any]:
    """What a reader has to know of how the figures came about."""
    settings_of = config.model_dump(mode="json")
    return {
        "arguments": {key: value for key, value in vars(arguments).items() if key != "output"},
        **environment(),
        "models": {policy.name: policy.model for policy in policies},
        "versions_of_run": {policy.name: policy.version for policy in policies if policy.version is not None},
        "panel": settings_of["scoring"]["panel"],
        "gold": gold.model_dump(mode="json")["scoring"]["panel"] if gold else None,
        "sampling": settings_of["rollout"],
    }


def check_arguments(arguments: argparse.Namespace) -> None:
    """Raise `EvaluationError` for what no evaluation can be made of."""
    if not arguments.policy and not arguments.checkpoints:
        raise EvaluationError("nothing to evaluate: name policies with --policy, or a run with --checkpoints")
    if not arguments.against and not arguments.checkpoints:
        raise EvaluationError(
            "name what the policies are compared with: --against, for example the model they began as"
        )
    for option in ("samples", "limit"):
        if (value := getattr(arguments, option)) is not None and value < 1:
            raise EvaluationError(f"--{option} = {value}; at least 1 is needed")
    if arguments.likelihood_prompts < 0:
        raise EvaluationError(f"--likelihood-prompts = {arguments.likelihood_prompts}; 0 leaves likelihoods out")
    if Path(arguments.output).is_file():
        raise EvaluationError(f"--output {arguments.output} is a file; give a folder")


def named_policies(arguments: argparse.Namespace, output: Path) -> list[Named]:
    """All policies, the one that the others are measured against first."""
    named = [parse_policy(text) for text in arguments.policy]
    start: Named | None = None
    checkpoints: list[Named] = []
    if arguments.checkpoints:
        start, checkpoints = checkpoint_policies(Path(arguments.checkpoints), output / "checkpoints")
    against = parse_policy(arguments.against) if arguments.against else start
    assert against is not None
    policies = [against, *named, *checkpoints]
    check_names(policies)
    return policies


def configurations(arguments: argparse.Namespace, against: Named) -> tuple[AlignConfig, AlignConfig | None]:
    """Settings of the evaluation, and the same with the gold scorers, of the command or else of the settings."""
    fixed = {
        "name": "evaluate",
        "teacher": None,
        "model": {"name": against.model},
        "data": {"prompts": arguments.prompts, "heldout": arguments.prompts},
    }
    runs = [text for text in (*arguments.policy, arguments.checkpoints, arguments.against) if text]
    config = settings(arguments.config, runs, arguments.set, fixed, arguments.scorers)
    if arguments.gold:
        return config, settings(arguments.config, runs, arguments.set, fixed, arguments.gold)
    held_out = config.scoring.held_out
    return config, config.model_copy(update={"scoring": held_out}) if held_out else None


def checked_questions(
    arguments: argparse.Namespace, policies: Sequence[Named], config: AlignConfig, gold: AlignConfig | None
) -> tuple[tuple[Message, ...], ...]:
    """The prompts, checked with every model that is there already and with every panel."""
    there = [policy for policy in policies if policy.checkpoint is None]
    models = [config.model.model_copy(update={"name": policy.model}) for policy in there]
    configs = [*(config.model_copy(update={"model": model}) for model in models), *([gold] if gold else [])]
    questions, *_ = [load_questions(each, arguments.prompts) for each in configs]
    if arguments.likelihood_prompts:
        check_vocabularies(there)
    return questions[: arguments.limit]


def likelihoods(taking_part: Sequence[Contestant], groups: Sequence[Group], console: Console) -> dict[str, Measured]:
    """What each policy's model and the first one's say of the answers of both; one policy after the other."""
    if not groups:
        return {}
    against, found = taking_part[0], {}
    task = ray.remote(measure)
    for contestant in taking_part:
        console.print(f"{contestant.name}: likelihoods on {len(groups)} prompts", highlight=False)
        config = contestant.config
        options = task.options(num_cpus=config.rollout.cpus, num_gpus=min(config.rollout.gpus, 1))
        writers = {contestant.name, against.name}
        own = [_only(group, writers) for group in groups]
        reference = options.remote(config, contestant.model, against.model, own, contestant.name)
        what = f"the likelihoods of {contestant.name} (deadlines.step)"
        found[contestant.name] = collect([reference], config.deadlines.step, what)[0]
    return found


def pairs(judged: Judged) -> pa.Table:
    """Every judged pair of answers, once, with the probability that the first is preferred by each panel."""
    rows = []
    for place, group in enumerate(judged.proxy):
        numbers = {name: {k: i for i, k in enumerate(judged.places(name, group).tolist())} for name in judged.names}
        matrices = {panel: verdict(groups[place]) for panel, groups in judged.panels().items()}
        for i, j in combinations(range(len(group.candidates)), 2):
            first, second = group.candidates[i], group.candidates[j]
            rows.append(
                {
                    "prompt": prompt_text(group),
                    "index": group.index,
                    "first_policy": first.policy,
                    "first_sample": numbers[first.policy][i],
                    "first": first.text,
                    "second_policy": second.policy,
                    "second_sample": numbers[second.policy][j],
                    "second": second.text,
                    **{panel: float(matrix[i, j]) for panel, matrix in matrices.items()},
                }
            )
    return pa.Table.from_pylist(rows)


def table(summary: dict[str, Any]) -> Table:
    """What decides, one policy a row."""
    result = Table(title=f"Against {summary['against']}, {summary['prompts']} prompts")
    for heading in ("policy", "win rate, 95% interval", "equal length", "gold", "KL, nats", "tokens"):
        result.add_column(heading, no_wrap=True)
    for name, figures in summary["policies"].items():
        rate = figures.get("proxy_win_rate")
        others = [
            figures.get("length_controlled"),
            figures.get("gold_win_rate"),
            figures.get("likelihood", {}).get("kl"),
        ]
        result.add_row(
            name,
            f"{rate['mean']:.3f} ({rate['low']:.3f} to {rate['high']:.3f})" if rate else "",
            *(f"{found['mean']:.3f}" if found else "" for found in others),
            f"{figures['tokens']:.1f}",
        )
    return result


def _only(group: Group, writers: set[str]) -> Group:
    """The group with the answers of these policies alone."""
    kept = [k for k, candidate in enumerate(group.candidates) if candidate.policy in writers]
    matrix = verdict(group)[kept][:, kept]
    return replace(group, candidates=tuple(group.candidates[k] for k in kept), preference=matrix)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m workflows.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    policy = "run directory, model folder, built-in name or hub id; NAME=... gives it a name"
    result.add_argument("--policy", action="append", default=[], metavar="POLICY", help=f"{policy}; may be repeated")
    result.add_argument("--against", metavar="POLICY", help="what all are measured against; else a run's start")
    result.add_argument("--checkpoints", metavar="RUN", help="evaluate the checkpoints of a run as policies too")
    result.add_argument("--scorers", nargs="+", default=[], metavar="MODULE:FUNCTION", help="the panel")
    result.add_argument(
        "--gold", nargs="+", default=[], metavar="MODULE:FUNCTION", help="held out of training; else scoring.gold"
    )
    result.add_argument("--prompts", required=True, help="held-out prompts, JSONL or Parquet")
    result.add_argument("--limit", type=int, help="use only the first so many prompts")
    result.add_argument("--samples", type=int, default=4, help="answers of each policy to each prompt")
    result.add_argument("--likelihood-prompts", type=int, default=32, help="prompts for KL and entropy; 0: none")
    result.add_argument("--elo", action="store_true", help="Elo ratings too")
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--config", help="sampling, engine and panel; otherwise those of the first run directory named")
    result.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of that configuration")
    result.add_argument("--address", help="Ray cluster to join; otherwise RAY_ADDRESS, otherwise this machine")
    result.add_argument("--output", required=True, help="folder of everything that is written")
    return result


if __name__ == "__main__":
    sys.exit(main())
