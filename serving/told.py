"""Prompts that tell directions: `python -m serving.told --prompts configs/prompts/instructions.jsonl ...`.

For a policy that learns in the loop itself to follow directions. Each prompt is told some directions, in the service's
words; `python -m workflows.align` samples answers to them, and its scorer `serving.rewards:along` reads the direction
in the prompt and rewards along it.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from actors.prompts import PromptError, load_prompts
from actors.records import Message, derive_seed
from algorithms.selection.directions import at_angle
from serving.prompts import conditioned, prompt_of
from serving.settings import Template

Conversation = tuple[Message, ...]


def told(
    prompts: Sequence[Conversation],
    angles: Sequence[float],
    objectives: Sequence[str],
    *,
    drawn: int,
    template: str,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """Rows for `align`: each prompt with `drawn` of the angles, in degrees from the first of the two objectives.

    Raises: ValueError for fewer angles than are drawn, or a template that tells directions where no scorer looks.
    """
    for number, prompt in enumerate(prompts):
        for angle in drawn_angles(angles, drawn, number, seed):
            messages = conditioned(prompt, template, dict(zip(objectives, at_angle(angle), strict=True)))
            if prompt_of(messages) == prompt_of(prompt):
                raise ValueError(
                    f"--template {template} tells directions in the system message, and scorers read the user's; take "
                    "paper or simpo"
                )
            yield {"messages": messages}


def drawn_angles(angles: Sequence[float], drawn: int, number: int, seed: int) -> list[float]:
    """Which `drawn` of the angles the prompt of this number is told.

    Raises: ValueError for fewer angles than are drawn.
    """
    if not 1 <= drawn <= len(angles):
        raise ValueError(f"--drawn {drawn}: of {len(angles)} directions 1 to {len(angles)} can be drawn for a prompt")
    generator = np.random.default_rng(derive_seed(seed, "directions", number))
    chosen: list[float] = generator.choice(np.asarray(angles, dtype=np.float64), size=drawn, replace=False).tolist()
    return chosen


def write_rows(output: Path, rows: Sequence[dict[str, Any]]) -> None:
    """JSONL, whole or not at all."""
    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_suffix(".part")
    part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    part.rename(output)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    arguments = _parser().parse_args(argv)
    first, last = arguments.trained
    angles = np.linspace(first, last, arguments.directions).tolist()
    try:
        prompts = [record.messages for record in load_prompts(arguments.prompts)[: arguments.count]]
        chosen = {"drawn": arguments.drawn, "template": arguments.template, "seed": arguments.seed}
        rows = list(told(prompts, angles, arguments.objectives, **chosen))
    except (PromptError, ValueError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    write_rows(Path(arguments.output), rows)
    print(f"wrote {len(prompts)} prompts with {arguments.drawn} directions each to {arguments.output}")
    return 0


def _parser() -> argparse.ArgumentParser:
    summary = (__doc__ or "").split("\n\n")[1]
    parser = argparse.ArgumentParser(prog="python -m serving.told", description=summary)
    parser.add_argument("--prompts", required=True, help="JSONL or Parquet with a column prompt or messages")
    parser.add_argument("--count", type=int, help="prompts that are used; all by default")
    parser.add_argument("--objectives", nargs=2, required=True, help="names of the service's two scorers, in order")
    parser.add_argument(
        "--trained", type=float, nargs=2, default=[-45, 45], help="from which to which angle, in degrees"
    )
    parser.add_argument("--directions", type=int, default=7, help="evenly spaced directions between them")
    parser.add_argument("--drawn", type=int, default=2, help="directions that each prompt is told")
    parser.add_argument(
        "--template",
        default="paper",
        choices=get_args(Template),
        help="how a direction is told; the service's own --template",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", required=True, help="JSONL of prompts")
    return parser


if __name__ == "__main__":
    sys.exit(main())
