"""Answers of a model to prompts: `python -m workflows.sample --config configs/demo.yaml --samples 8 --output FILE`.

Of the configuration only `model`, `data` and `rollout` count. What is written, one group a prompt, is what
`workflows.preference_model.labelling` and `workflows.evaluate.best_of_n` read; the same command writes the same file.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from actors.deadlines import DeadlineExceeded
from actors.records import SCHEMA
from actors.scorers.config import ScoringConfig
from workflows.align import BAD_INPUT, connect
from workflows.answers import Contestant, generate, load_questions, requests
from workflows.config import ConfigError, load_config


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    arguments = parser().parse_args(argv)
    console = Console()
    try:
        answers = sample(arguments)
    except (*BAD_INPUT, DeadlineExceeded) as error:
        Console(stderr=True).print(f"{type(error).__name__}: {error}", style="red", highlight=False, markup=False)
        return 1
    console.print(
        f"wrote {arguments.output}: {arguments.samples} answers to each of {answers.num_rows} prompts",
        highlight=False,
        markup=False,
    )
    return 0


def sample(arguments: argparse.Namespace) -> pa.Table:
    """Sample and write the answers; returns them, one row a prompt.

    Raises: one of `align`'s `BAD_INPUT`, before the engine starts where that is possible; `DeadlineExceeded`.
    """
    if arguments.samples < 1:
        raise ConfigError(f"--samples = {arguments.samples}; at least 1 is needed")
    # Nobody judges here, and the configured scorers may be what these answers are for.
    nobody = ScoringConfig(panel=("workflows.judges:brevity",))
    config = load_config(arguments.config, arguments.set).model_copy(update={"scoring": nobody})
    questions = load_questions(config, arguments.prompts or config.data.prompts)[: arguments.limit]
    output = Path(arguments.output)
    connect(arguments.address)
    writer = Contestant(
        name=config.model.name, model=config.model.name, config=config, directory=output.parent, prefix=output.stem
    )
    asked = requests(config, questions, arguments.samples, arguments.seed)
    answers = pa.Table.from_batches(generate(writer, asked), SCHEMA)
    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_suffix(".part")
    pq.write_table(answers, part)
    part.rename(output)
    return answers


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="nashloop sample", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("--config", required=True, help="YAML file of an alignment, for example configs/demo.yaml")
    result.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one key; repeatable")
    result.add_argument("--prompts", help="JSONL or Parquet; otherwise data.prompts of the configuration")
    result.add_argument("--limit", type=int, help="use only the first so many prompts")
    result.add_argument("--samples", type=int, default=4, help="answers to each prompt")
    result.add_argument("--seed", type=int, default=0, help="of the samples")
    result.add_argument("--address", help="Ray cluster to join; otherwise RAY_ADDRESS, otherwise this machine")
    result.add_argument("--output", required=True, metavar="FILE", help="Parquet file that is written")
    return result


if __name__ == "__main__":
    sys.exit(main())
