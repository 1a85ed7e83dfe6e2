"""Play known games with the whole loop: `python -m workflows.verify --objective egpo sppo --game cyclic`.

Every objective plays the same games, one for each context and seed, in a real run of its own (engines, scorer, buffer,
learner, publications). Every version's exact policy is read from the learner's logits, so its distance to the
equilibrium is known, not estimated. Leaves `summary.json` and `report.html`. What has already run is not run again.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from actors.config import AlignConfig
from algorithms.games import GENERATORS
from workflows.align import BAD_INPUT, connect
from workflows.config import ConfigError
from workflows.run_directory import environment
from workflows.verify.game import Match, prepare
from workflows.verify.report import write_report
from workflows.verify.runs import Outcome, read, run
from workflows.verify.settings import SETTINGS, configuration
from workflows.verify.summary import summarise


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    arguments = parser().parse_args(argv)
    console = Console()
    try:
        summary = verify(arguments, console)
    except BAD_INPUT as error:
        Console(stderr=True).print(f"{type(error).__name__}: {error}", style="red", highlight=False, markup=False)
        return 1
    console.print(table(summary["objectives"]))
    console.print(f"report: {arguments.output}/report.html", highlight=False, markup=False)
    return 0


def verify(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Run what has not run yet, measure everything, write the results; returns what `summary.json` holds.

    Raises: one of `BAD_INPUT`.
    """
    output = Path(arguments.output)
    matches = {seed: _match(arguments, output, seed) for seed in arguments.seeds}
    configs = {
        (name, seed): _configuration(arguments, name, seed, matches[seed])
        for name in arguments.objective
        for seed in matches
    }
    # Two displays can't share a terminal.
    progress = console if arguments.together == 1 else Console(quiet=True)

    def play(name: str, seed: int) -> Outcome:
        console.print(f"{name}, seed {seed}", highlight=False)
        outcome = read(run(configs[name, seed], progress), SETTINGS[name], matches[seed], seed)
        console.print(_line(name, outcome), highlight=False)
        return outcome

    connect(None)
    with ThreadPoolExecutor(max_workers=arguments.together) as threads:
        played = dict(zip(configs, threads.map(lambda key: play(*key), configs), strict=True))
    outcomes = {name: [played[name, seed] for seed in matches] for name in arguments.objective}
    asked = {key: value for key, value in vars(arguments).items() if key != "output"}
    summary = {"arguments": asked, **environment(), "objectives": summarise(outcomes, SETTINGS)}
    (output / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    write_report(output, summary, outcomes)
    return summary


def table(objectives: dict[str, Any]) -> Table:
    """The figures of `summary.json` that decide, one objective a row."""
    columns = {"start_gap": "start", "end_gap": "end", "ratio": "ratio", "end_win_rate": "win rate", "step_size": "eta"}
    result = Table(title="Duality gap at start and end, mean over seeds and contexts")
    for heading in ("objective", *columns.values(), "seconds"):
        result.add_column(heading, no_wrap=True)
    for name, figures in objectives.items():
        values = [f"{figures[key]['mean']:.3g}" for key in columns]
        result.add_row(name, *values, f"{figures['wall_seconds']['mean']:.0f}")
    return result


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m workflows.verify", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    defaults = ["egpo", "past_egpo", "online_ipo", "inpo", "sppo", "online_dpo"]
    result.add_argument("--objective", nargs="+", choices=SETTINGS, default=defaults, metavar="NAME", help="default: "
                        f"{' '.join(defaults)}; there are {', '.join(SETTINGS)}")  # fmt: skip
    result.add_argument("--game", choices=GENERATORS, default="cyclic", help="generator of algorithms.games")
    result.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="each a game and a model of its own")
    result.add_argument("--actions", type=int, default=6, help="answers; rock_paper_scissors always has 3")
    result.add_argument("--contexts", type=int, default=4, help="prompts, each with a preference matrix of its own")
    result.add_argument("--beta", type=float, default=0.1, help="temperature of the regularised game")
    result.add_argument("--eta", type=int, default=0, help="largest staleness of groups, in versions")
    result.add_argument("--steps", type=int, default=200, help="versions of every run; egpo needs two for an update")
    result.add_argument("--batch", type=int, default=16, help="groups of a version")
    result.add_argument("--labels", choices=("probability", "sampled"), default="probability", help="what a pair says")
    result.add_argument("--flip-rate", type=float, default=0.0, help="share of the verdicts that are reversed")
    result.add_argument("--together", type=int, default=1, help="runs at once; seconds are comparable only with one")
    result.add_argument("--exact", action="store_true", help="draw the exact updates beside the runs")
    result.add_argument("--output", default="runs/verify", help="folder of everything that is written")
    return result


def _match(arguments: argparse.Namespace, output: Path, seed: int) -> Match:
    try:
        return prepare(
            _game_folder(output, seed),
            kind=arguments.game,
            contexts=arguments.contexts,
            actions=3 if arguments.game == "rock_paper_scissors" else arguments.actions,
            beta=arguments.beta,
            seed=seed,
        )
    except ValueError as error:
        raise ConfigError(f"this game can't be played: {error}") from None


def _configuration(arguments: argparse.Namespace, name: str, seed: int, match: Match) -> AlignConfig:
    output = Path(arguments.output)
    return configuration(
        SETTINGS[name],
        match,
        name=f"{name}-{seed}",
        folder=_game_folder(output, seed),
        directory=output / "runs",
        seed=seed,
        steps=arguments.steps,
        batch=arguments.batch,
        eta=arguments.eta,
        labels=arguments.labels,
        flip_rate=arguments.flip_rate,
    )


def _game_folder(output: Path, seed: int) -> Path:
    return output / "games" / f"seed-{seed}"


def _line(name: str, outcome: Outcome) -> str:
    gap, updates, seconds = outcome.curve.gap, outcome.updates[-1], outcome.seconds[-1]
    return f"{name}, seed {outcome.seed}: gap {gap[0]:.4g} -> {gap[-1]:.4g} in {updates:.0f} updates, {seconds:.0f} s"


if __name__ == "__main__":
    sys.exit(main())
