"""The report of a run: `report.html`, one page for somebody who was not there.

Contract: every figure on the page is read from the run directory, and each one of summary.json stands there
with its exact value in a `<data value=...>` element. A file that is missing, short or broken is named on the
page and is never an error. A promise counts as kept only where the run measured it. The page loads and runs
nothing: texts are escaped, figures are inline, and a content policy forbids the rest.

    python -m workflows.report runs/demo
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from workflows.drawing import ends, judges_of, number, pick
from workflows.report_plots import figures
from workflows.report_promises import MISMATCH_KL, promises
from workflows.report_run import Run, compact, known, read_run, readable

# Rules of thumb for a reader's attention, not promises of the system.
KL_HIGH, KL_MODERATE = 40.0, 15.0  # nats per completion
LENGTH_CHANGE, ENTROPY_LEFT = 0.4, 0.4  # shares of the value at the start
REJECTED_SHARE, DROPPED_SHARE, TRUNCATED_SHARE, CLIPPED_SHARE = 0.05, 0.5, 0.3, 0.9
EXPOSED_SHARE = 0.05  # of the seconds of a step
NEAR_BOUND = 0.9  # mean staleness over its bound


def find(tree: Any, *names: str) -> Any:
    """The shallowest value of the first of `names` that nested mappings have; None where there is none."""
    for name in names:
        level = [tree]
        while level:
            mappings = [node for node in level if isinstance(node, Mapping)]
            for node in mappings:
                if node.get(name) is not None:
                    return node[name]
            level = [part for node in mappings for part in node.values()]
    return None


def length_ends(run: Run) -> tuple[float, float] | None:
    """Mean tokens at start and end: of evaluations if there is one of version 0, else of the trained."""
    evaluated = bool(run.evaluations) and number(run.evaluations[0]["version"]) == 0
    return (ends(run.evaluations, "length_mean", 1) if evaluated else None) or ends(run.steps, "length_mean")


def verdict(run: Run) -> tuple[str, str]:
    """(tone, headline): whether it worked, from the interval of the win rate alone."""
    low, high = run.get("win_rate.low"), run.get("win_rate.high")
    if low is None or high is None:
        return "unknown", "Not known: no win rate with an interval was measured"
    if low > 0.5:
        return "good", "It worked: the trained policy is preferred to the start"
    if high < 0.5:
        return "bad", "It got worse: the start is preferred to the trained policy"
    return "unknown", "Not shown: the win rate cannot be told from one half"


def warnings(run: Run) -> list[str]:
    """What a reader should look at twice, one sentence each."""
    zero = (0.0, 0.0)
    kl, mismatch, high = run.get("kl") or 0.0, run.get("mismatch.kl") or 0.0, run.get("win_rate.high")
    short, long = length_ends(run) or zero
    fresh, left = ends(run.steps, "entropy") or zero
    rejected = (run.get("ledger.rejected") or 0.0) / (run.get("ledger.admitted") or 1.0)
    pairs, dropped = (sum(known(run.steps, key)) for key in ("pairs", "dropped_pairs"))
    lost = dropped / ((pairs + dropped) or 1.0)
    cut, clipped = ((ends(run.steps, key) or zero)[1] for key in ("truncated_share", "clipped"))
    bound, stale = run.get("staleness.bound") or 0.0, run.get("staleness.mean") or 0.0
    # Intervals, not means: the best of several small evaluations is above the last one by chance alone.
    exposed, once = exposed_share(run) or 0.0, max([0.0, *known(run.evaluations, "win_rate.low")])
    judges = judges_of(run.evaluations[-1]) if run.evaluations else {}
    against = [str(name) for name in judges if (rate := number(judges[name])) is not None and rate < 0.45]
    broken = sum(number(row.get("loss")) is None for row in run.steps)
    lengths = f"from {short:.0f} to {long:.0f} tokens a completion"
    fell = high is not None and high < once
    checks = [
        *(
            (state == "broken", f"Broken promise. {name.partition(':')[0]}: {text}.")
            for name, text, state in promises(run)
        ),
        (kl >= KL_HIGH, f"KL is very high ({kl:.3g} nats): the win rate alone flatters, read the samples."),
        (long < (1 - LENGTH_CHANGE) * short, f"Lengths collapsed: {lengths}."),
        (long > (1 + LENGTH_CHANGE) * short > 0, f"Lengths exploded: {lengths}."),
        (left < ENTROPY_LEFT * fresh, f"Entropy collapsed: from {fresh:.3g} to {left:.3g} nats a token."),
        (rejected > REJECTED_SHARE, f"Many groups were rejected: {rejected:.0%} of those admitted."),
        (lost > DROPPED_SHARE, f"{lost:.0%} of the pairs were dropped as ties or identical texts."),
        (cut > TRUNCATED_SHARE, f"{cut:.0%} of the last completions were cut off at the length limit."),
        (clipped > CLIPPED_SHARE, f"{clipped:.0%} of the last gradients were clipped to the norm allowed."),
        (0 < NEAR_BOUND * bound <= stale <= bound, f"Staleness is at its bound, {stale:.3g} of {bound:g}."),
        (abs(mismatch) > MISMATCH_KL, f"Engine and learner disagree by {mismatch:.3g} nats a token."),
        (exposed > EXPOSED_SHARE, f"Publications hold up the learner and the engines: {exposed:.0%} of a step."),
        (fell, f"The win rate fell: at least {once:.2f} at its best, at most {high or 0.0:.2f} at the end."),
        (bool(against), f"The gain goes against {', '.join(against)}: below 0.45 when asked alone."),
        (broken > 0, f"The loss of {broken} of {len(run.steps)} steps is missing or not finite."),
    ]
    return [text for holds, text in checks if holds]


def exposed_share(run: Run) -> float | None:
    """Exposed seconds of a median publication over the median seconds of a step; None where not measured."""
    exposed, gaps = run.get("publication.exposed_seconds_median"), np.diff(known(run.steps, "seconds"))
    step = float(np.median(gaps)) if len(gaps) else 0.0
    return exposed / step if exposed is not None and step > 0 else None


def render(run: Run) -> str:
    """The page."""

    def show(path: str, kind: str = "") -> Markup:
        """A figure of the summary for a reader, with its exact value for a program."""
        value = pick(run.summary, path)
        exact = json.dumps(value) if number(value) is not None else ""
        return Markup('<data data-key="{}" value="{}">{}</data>').format(path, exact, readable(value, kind))

    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    of_values = (readable, compact, find, number, judges_of)
    of_run = (verdict, warnings, promises, length_ends, exposed_share)
    environment.globals.update({function.__name__: function for function in (*of_values, *of_run)})
    drawn = figures(run.steps, run.evaluations, run.summary, run.diagnostics)
    return environment.get_template("report_template.html").render(
        run=run,
        show=show,
        kl_limits=(KL_MODERATE, KL_HIGH),
        finished=str(run.summary.get("status")).lower() == "finished",
        figures={name: Markup(svg) for name, svg in drawn.items() if svg is not None},
    )


def write_report(run_directory: Path) -> Path:
    """Writes `report.html` into `run_directory`, whole or not at all, and returns its path.

    Raises NotADirectoryError when there is no such directory, OSError when it cannot be written to.
    """
    page, path = render(read_run(run_directory)), run_directory / "report.html"
    partial = path.with_suffix(".html.partial")
    partial.write_text(page, encoding="utf-8", errors="replace")
    os.replace(partial, path)
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m workflows.report", description="Write report.html.")
    parser.add_argument("run_directory", type=Path, help="for example runs/demo")
    try:
        print(write_report(parser.parse_args(arguments).run_directory))
    except OSError as error:
        print(f"No report: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
