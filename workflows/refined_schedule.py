"""A schedule refined from a finished run: `python -m workflows.refined_schedule runs/mine >> next.yaml`.

Prints the `learner` keys of a next run of the same length, whose rates are large where the gradients of the finished
run were small (Defazio et al. 2310.07831); see `algorithms.schedules.refined_curve`.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from algorithms.schedules import refined_curve
from workflows.config import ConfigError

DIGITS = 4


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    arguments = parser().parse_args(argv)
    try:
        curve = refined(Path(arguments.run), arguments.smoothing, arguments.exponent)
    except ConfigError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(yaml.safe_dump({"learner": {"schedule": "curve", "curve": curve}}, default_flow_style=None), end="")
    return 0


def refined(run: Path, smoothing: float, exponent: float) -> list[float]:
    """Rates of all updates of a run directory's run relative to the largest.

    Raises: `ConfigError` when the run has no usable gradient norms.
    """
    path = run / "metrics.jsonl"
    if not path.exists():
        raise ConfigError(f"{run} is no run directory: there is no {path}")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    norms = [row["gradient_norm"] for row in rows if row["kind"] == "step"]
    try:
        curve = refined_curve(norms, smoothing, exponent)
    except ValueError as error:
        raise ConfigError(f"the gradient norms in {path} give no schedule: {error}") from None
    return [round(float(rate), DIGITS) for rate in curve]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m workflows.refined_schedule", description=__doc__)
    result.add_argument("run", help="run directory of a finished run")
    result.add_argument(
        "--smoothing", type=float, default=0.1, help="width of the median filter, as a share of the run"
    )
    result.add_argument("--exponent", type=float, default=2.0, help="of the gradient norms; 2 is the paper's for SGD")
    return result


if __name__ == "__main__":
    sys.exit(main())
