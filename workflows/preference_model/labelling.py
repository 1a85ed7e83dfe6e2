"""Comparisons for a preference model, from what the policies of a run wrote and what judges say of it:

    python -m workflows.preference_model.labelling runs/demo --judges workflows.judges:warmth --output warm.jsonl

Each group of the run's experience gives pairs of its candidates; every judge has one vote on each, or none of its own
where it sees a tie. What is written is what `data.train` reads: `messages`, `first`, `second`, `votes`.
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


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    arguments = _parser().parse_args(argv)
    console = Console()
    try:
        judges = {name: load_judge(name) for name in arguments.judges}
        groups = read_experience(Path(arguments.run))
        rows = [row for group in groups for row in comparisons_of(group, judges, arguments.pairs)]
    except (PreferenceDataError, ScorerError) as error:
        Console(stderr=True).print(f"{type(error).__name__}: {error}", style="red", highlight=False, markup=False)
        return 1
    output = Path(arguments.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    console.print(f"wrote {output}: {len(rows)} comparisons from {len(groups)} groups", highlight=False, markup=False)
    return 0


def read_experience(run: Path) -> list[Group]:
    """The groups of a run's experience, in the order of their ids, each once.

    Raises: `PreferenceDataError` where there is none.
    """
    files = sorted((run / "experience").glob("*.parquet"))
    groups = {group.id: group for file in files for group in from_arrow(pq.read_table(file, schema=SCHEMA))}
    if not groups:
        raise PreferenceDataError(f"{run} holds no experience (experience/*.parquet); give the directory of a run")
    return [groups[name] for name in sorted(groups)]


def comparisons_of(group: Group, judges: Mapping[str, Judge], pairs: int) -> Iterator[dict[str, Any]]:
    """Rows for up to `pairs` pairs of different candidates, drawn by the group's id.

    Raises: `PreferenceDataError` naming a judge that gives no probability.
    """
    texts = list(dict.fromkeys(c.text.strip() for c in group.candidates if c.text.strip()))
    possible = list(combinations(texts, 2))
    order = np.random.default_rng(derive_seed(group.id, "labelling")).permutation(len(possible))
    for first, second in (possible[i] for i in order[:pairs]):
        votes = [_vote(name, judge, prompt_text(group), first, second) for name, judge in judges.items()]
        yield {"messages": list(group.messages), "first": first, "second": second, "votes": votes}


def _vote(name: str, judge: Judge, prompt: str, first: str, second: str) -> str:
    probability = float(judge(prompt, first, second))
    if not 0.0 <= probability <= 1.0:
        raise PreferenceDataError(f"judge {name} said {probability}, which is no probability")
    return "tie" if probability == 0.5 else "first" if probability > 0.5 else "second"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m workflows.preference_model.labelling", description=__doc__)
    parser.add_argument("run", help="directory of a run")
    parser.add_argument("--judges", nargs="+", required=True, metavar="MODULE:FUNCTION")
    parser.add_argument("--pairs", type=int, default=1, help="comparisons from each group")
    parser.add_argument("--output", required=True, help="JSONL file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
