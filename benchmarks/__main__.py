"""`python -m benchmarks [NAME ...] [--quick] [--output FOLDER]`: run benchmarks, print tables, write results.

Each runs in a process of its own. `--quick` only shows that they work: its figures go to `FOLDER/quick` and not into
`RESULTS.md`. The exit status is 1 when a benchmark failed; a missed target is a result, not a failure.
"""

import argparse
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.registry import NAMES, bound_of, run_in_own_process
from benchmarks.results import ROOT, table, write_json, write_markdown

FOLDER = ROOT / "benchmarks" / "results"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if unknown := sorted(set(arguments.names) - set(NAMES)):
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}")
    names = [name for name in NAMES if name in arguments.names] or list(NAMES)
    folder = arguments.output / "quick" if arguments.quick else arguments.output
    console = Console(width=None if sys.stdout.isatty() else 160)
    failed = []
    for name in names:
        bound = bound_of(name)
        console.print(f"\n[bold]{name}[/bold]: {bound}", highlight=False)
        began = time.monotonic()
        try:
            figures = run_in_own_process(name, arguments.quick)
        except Exception:  # the others are still worth running
            traceback.print_exc()
            failed.append(name)
            continue
        console.print(table(name, figures))
        command = f"python -m benchmarks {name}{' --quick' if arguments.quick else ''}"
        write_json(folder, name, bound, figures, time.monotonic() - began, command)
    if not arguments.quick:
        write_markdown(folder, folder.parent / "RESULTS.md", NAMES)
    if failed:
        console.print(f"failed: {', '.join(failed)}", style="red")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; none runs all")
    parser.add_argument("--quick", action="store_true", help="few and short measurements, to see that all of it works")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder of the JSON files")
    return parser


if __name__ == "__main__":
    sys.exit(main())
