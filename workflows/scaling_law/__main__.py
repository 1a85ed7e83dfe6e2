"""Fit a scaling law to a table of trials, and ask it what to run next.

    python -m workflows.scaling_law fit runs/sweep/trials.parquet --law step --group N,D --tune learning_rate
    python -m workflows.scaling_law predict --N 8e9 --D 1e9 --config configs/egpo.yaml > next.yaml

`fit` leaves `law.json` and `report.html`. `predict` asks `law.json`; without `--config` it prints what laws of outcomes
predict, and for a law of loss curves the loss at the end of each schedule.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.table import Table as Listing

from algorithms.scaling import LAWS
from algorithms.scaling.fit import ExtrapolationError, FitError
from algorithms.scaling.optimum import NEEDED, NEIGHBOURS
from workflows.config import ConfigError
from workflows.scaling_law.predict import final_losses, next_configuration, predictions
from workflows.scaling_law.question import CURVE_LAWS, Curvature, HoldOut, Question, Tuned
from workflows.scaling_law.record import RECORD, read_record, write_record
from workflows.scaling_law.report import write_report
from workflows.scaling_law.study import Study, answer
from workflows.scaling_law.table import TableError, read_tables

DIRECTORY = Path("runs/scaling_law")
BAD_INPUT = (TableError, FitError, ConfigError)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        if given[:1] == ["predict"]:
            print(predict(given[1:]), end="")
        else:
            fit(parser().parse_args(given), Console())
    except BAD_INPUT as error:
        if isinstance(error, ExtrapolationError):
            error = FitError(f"{error} with --extrapolate")
        Console(stderr=True).print(f"{type(error).__name__}: {error}", style="red", highlight=False, markup=False)
        return 1
    return 0


def fit(arguments: argparse.Namespace, console: Console) -> None:
    """Fit, check, and write the record and the report.

    Raises: one of `BAD_INPUT`.
    """
    asked = question(arguments)
    studies = answer(asked, read_tables(asked.tables))
    arguments.output.mkdir(parents=True, exist_ok=True)
    record = write_record(arguments.output, studies, asked.tables)
    report = write_report(arguments.output, studies, asked.tables)
    for study in studies:
        console.print(_listing(study))
        for note in study.notes:
            console.print(note, highlight=False, markup=False)
    console.print(f"wrote {record} and {report}", highlight=False, markup=False)


def predict(given: Sequence[str]) -> str:
    """What the fitted laws say about the factors named in `given`, as text.

    Raises: one of `BAD_INPUT`.
    """
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument("--fit", type=Path, default=DIRECTORY / RECORD, help="default: %(default)s")
    known, _ = first.parse_known_args(given)
    parser = argparse.ArgumentParser(prog="python -m workflows.scaling_law predict", parents=[first])
    parser.add_argument("--extrapolate", action="store_true", help="answer also far outside the fitted range")
    fits = read_record(known.fit)
    if fits[0].law.name in CURVE_LAWS:
        parser.add_argument("--peak", type=float, required=True, help="peak learning rate")
        parser.add_argument("--steps", type=int, required=True)
        parser.add_argument("--warmup", type=int, default=0)
        parser.add_argument("--minimum", type=float, default=0.0, help="floor, as a share of the peak")
        asked = parser.parse_args(given)
        return final_losses(fits[0], asked.peak, asked.steps, asked.warmup, asked.minimum, asked.extrapolate)
    parser.add_argument("--config", type=Path, help="the configuration to put predicted settings into")
    factors = list(dict.fromkeys(name for law in fits for name in law.law.factors))
    for name in factors:
        parser.add_argument(f"--{name}", dest=name, type=_positive, required=True)
    asked = parser.parse_args(given)
    at = {name: getattr(asked, name) for name in factors}
    if asked.config:
        return next_configuration(fits, at, asked.config, asked.extrapolate)
    return predictions(fits, at, asked.extrapolate)


def question(arguments: argparse.Namespace) -> Question:
    """What the arguments of `fit` ask.

    Raises: `TableError`.
    """
    group = tuple(arguments.group.split(",")) if arguments.group else ()
    if arguments.law == "step" and not group:
        raise TableError("the law step needs --group: the columns that trials of one group share, such as N,D")
    if arguments.curvature == "shared" and arguments.neighbours != NEIGHBOURS:
        raise TableError(
            "--neighbours is of --curvature own; a curvature that groups share is that of all their trials"
        )
    return Question(
        tables=tuple(arguments.tables),
        law=arguments.law,
        group=group,
        tuned=tuple(Tuned.parse(text, group) for text in arguments.tune),
        metric=arguments.metric,
        mode=arguments.mode,
        hold_out=HoldOut.parse(arguments.hold_out) if arguments.hold_out else None,
        delta=arguments.delta,
        curvature=arguments.curvature,
        neighbours=arguments.neighbours,
        fixed=tuple(_number(*_assignment("--fix", text)) for text in arguments.fix),
        where=tuple(_assignment("--where", text) for text in arguments.where),
        warmup=arguments.warmup,
        resamples=arguments.resamples,
        seed=arguments.seed,
    )


def _listing(study: Study) -> Listing:
    check = study.check
    listing = Listing("parameter", "value", "95% interval", "without the held-out", title=study.fit.law.formula)
    for place, (name, (low, high)) in enumerate(zip(study.fit.law.names, study.fit.intervals().tolist(), strict=True)):
        held = f"{check.fit.parameters[place]:.4g}" if check else ""
        listing.add_row(name, f"{study.fit.parameters[place]:.4g}", f"{low:.4g} to {high:.4g}", held)
    if check:
        told = [f"held out: mean error {check.mean_error:.3g}", f"{check.covered:.0%} in their interval"]
        if check.excess is not None:
            told.append(f"{study.metric} worse by {check.excess:.3g}")
        listing.caption = ", ".join(told)
    return listing


def parser() -> argparse.ArgumentParser:
    """The command line but for `predict`, whose arguments are the factors of the fitted law."""
    result = argparse.ArgumentParser(
        prog="python -m workflows.scaling_law",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = result.add_subparsers(required=True)
    commands.add_parser("predict", help="ask a fitted law", add_help=False)
    fitting = commands.add_parser("fit", help="fit a law to a table")
    fitting.add_argument("tables", nargs="+", type=Path, metavar="TABLE", help="CSV or Parquet")
    fitting.add_argument("--law", required=True, choices=["step", *LAWS])
    fitting.add_argument("--where", nargs="+", default=[], metavar="COLUMN=VALUE", help="use only these rows")
    fitting.add_argument("--group", default="", help="columns that name a group or a run, such as N,D")
    fitting.add_argument(
        "--tune",
        nargs="+",
        default=["learning_rate"],
        metavar="SETTING[:FACTORS]",
        help="law step: what each group tunes, such as learning_rate batch:D (default: %(default)s)",
    )
    fitting.add_argument("--metric", help="column of the outcome (default: that of the law; step: win_rate, or loss)")
    fitting.add_argument("--mode", choices=["min", "max"], help="default: min for a loss, max for anything else")
    fitting.add_argument("--hold-out", metavar="COLUMN[=VALUES]", help="what the check keeps from the fit")
    fitting.add_argument("--delta", type=_positive, help="where Huber's loss turns linear; 1e-3 for smooth losses")
    fitting.add_argument(
        "--curvature",
        choices=get_args(Curvature),
        default="own",
        help="law step: of the quadratics around optima, each group's own or one for all (default: %(default)s)",
    )
    fitting.add_argument(
        "--neighbours",
        type=int,
        choices=range(NEEDED, 10),
        default=NEIGHBOURS,
        metavar="VALUES",
        help="law step: grid values on each side of the best that its quadratic is fitted to (default: %(default)s)",
    )
    fitting.add_argument("--fix", nargs="+", default=[], metavar="NAME=VALUE", help="parameters that are known")
    fitting.add_argument("--warmup", type=int, default=0, help="steps of warm-up, for laws of loss curves")
    fitting.add_argument("--resamples", type=int, default=1000, help="of the bootstrap (default: %(default)s)")
    fitting.add_argument("--seed", type=int, default=0)
    fitting.add_argument("--output", type=Path, default=DIRECTORY, help="default: %(default)s")
    return result


def _positive(text: str) -> float:
    value = float(text)
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no number above 0")
    return value


def _assignment(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise TableError(f"{option} {text!r} is not of the form NAME=VALUE")
    return name, value


def _number(name: str, text: str) -> tuple[str, float]:
    try:
        return name, float(text)
    except ValueError:
        raise TableError(f"--fix {name}={text} gives no number, such as R0=0.5") from None


if __name__ == "__main__":
    sys.exit(main())
