"""Comparisons for a preference model, from answers and what judges say of them:

    python -m workflows.preference_model.labelling runs/demo --judges workflows.judges:warmth --output warm.jsonl

The answers are those of a run's experience, or of a file that `workflows.sample` wrote. Each group of them gives pairs;
every judge has one vote on each, or none of its own where it sees a tie. `--flips` reverses a share of the votes, as
noise. What is written is what `data.train` reads: `messages`, `first`, `second`, `votes`.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console

from actors.preference_data import PreferenceDataError
from actors.records import SCHEMA, Group, derive_seed, from_arrow
from actors.scorer import Judge, ScorerError, load_judge, prompt_text

REVERSED = {"first": "second", "second": "first", "tie": "tie"}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    arguments = _parser().parse_args(argv)
    console = Console()
    try:
        judges = {name: load_judge(name) for name in arguments.judges}
        groups = read_answers(Path(arguments.answers))
        if not 0.0 <= arguments.flips <= 0.5:
            raise PreferenceDataError(
                f"--flips {arguments.flips:g}; a share from 0 to 0.5 of the votes can be reversed"
            )
        rows = [
            row
            for group in groups
            for row in comparisons_of(group, judges, arguments.pairs, flips=arguments.flips, seed=arguments.seed)
        ]
    except (PreferenceDataError, ScorerError) as error:
        Console(stderr=True).print(f"{type(error).__name__}: {error}", style="red", highlight=False, markup=False)
        return 1
    output = Path(arguments.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    console.print(f"wrote {output}: {len(rows)} comparisons from {len(groups)} groups", highlight=False, markup=False)
    return 0


def read_answers(source: Path) -> list[Group]:
    """The groups of a run's experience or of a file of answers, in the order of their ids, each once.

    Raises: `PreferenceDataError` where there is none.
    """
    files = [source] if source.is_file() else sorted((source / "experience").glob("*.parquet"))
    groups = {group.id: group for file in files for group in from_arrow(pq.read_table(file, schema=SCHEMA))}
    if not groups:
        raise PreferenceDataError(
            f"{source} holds no answers; give the directory of a run (with experience/*.parquet), or a Parquet file "
            "that workflows.sample wrote"
        )
    return [groups[name] for name in sorted(groups)]


def comparisons_of(
    group: Group, judges: Mapping[str, Judge], pairs: int, *, flips: float = 0.0, seed: int = 0
) -> Iterator[dict[str, Any]]:
    """Rows for up to `pairs` pairs of different answers, drawn by the group's id.

    `flips`: share of the votes that are reversed; which ones follows from the group's id and the seed.
    Raises: `PreferenceDataError` naming a judge that gives no probability.
    """
    texts = list(dict.fromkeys(c.text.strip() for c in group.candidates if c.text.strip()))
    possible = list(combinations(texts, 2))
    order = np.random.default_rng(derive_seed(group.id, "labelling")).permutation(len(possible))
    noise = np.random.default_rng(derive_seed(group.id, "flips", seed))
    for first, second in (possible[i] for i in order[:pairs]):
        votes = [_vote(name, judge, prompt_text(group), first, second) for name, judge in judges.items()]
        reverse = noise.random(len(votes)) < flips
        noisy = [REVERSED[vote] if turned else vote for vote, turned in zip(votes, reverse, strict=True)]
        yield {"messages": list(group.messages), "first": first, "second": second, "votes": noisy}


def _vote(name: str, judge: Judge, prompt: str, first: str, second: str) -> str:
    probability = float(judge(prompt, first, second))
    if not 0.0 <= probability <= 1.0:
        raise PreferenceDataError(f"judge {name} said {probability}, which is no probability")
    return "tie" if probability == 0.5 else "first" if probability > 0.5 else "second"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m workflows.preference_model.labelling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("answers", help="directory of a run, or Parquet file of answers")
    parser.add_argument("--judges", nargs="+", required=True, metavar="MODULE:FUNCTION")
    parser.add_argument("--pairs", type=int, default=1, help="comparisons from each group")
    parser.add_argument("--flips", type=float, default=0.0, metavar="SHARE", help="of the votes, reversed as noise")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--output", required=True, help="JSONL file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
