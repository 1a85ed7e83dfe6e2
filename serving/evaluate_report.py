"""The comparison of rps with best-of-n as a Markdown table and a picture, from the same figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from serving.evaluate import AngleResult

STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e5e5",
    "axes.axisbelow": True,
}
BEYOND, COVERED = "#2458a6", "#b5651d"
HEADER = (
    "angle",
    "trained there",
    "rps wins / loses / ties",
    "win rate, ties 1/2 (95%)",
    "gain of score (95%)",
    "sign test p",
    "judge (95%)",
    "judge, length-controlled",
    "words rps / best-of-n",
)
READING = (
    "Both methods choose among the same number of candidates by their reward along the preferred direction. The gain "
    "is the mean difference of the chosen rewards; intervals resample prompts, each with both its answers. Where "
    "training covered the direction the comparison is a negative control: rps should not win there."
)


def write_report(output: Path, results: Sequence["AngleResult"], about: Mapping[str, Any]) -> list[Path]:
    """Write `output`.md and .png; returns their paths."""
    image = output.with_suffix(".png")
    output.with_suffix(".md").write_text(markdown(results, about, image.name), "utf-8")
    picture(results).savefig(image, dpi=160)
    return [output.with_suffix(".md"), image]


def markdown(results: Sequence["AngleResult"], about: Mapping[str, Any], image: str) -> str:
    """The table, and what a reader needs to understand it."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (HEADER, ("---",) * len(HEADER), *map(_cells, results))]
    asked = f"{about['prompts']} prompts, k = {about['k']} candidates of either method, {about['max_tokens']} tokens."
    return "\n".join([asked, "", *lines, "", READING, "", f"![Gain of rps over best-of-n by angle]({image})", ""])


def _cells(result: "AngleResult") -> tuple[str, ...]:
    found, judge = result.comparison, result.judge
    controlled = None if judge is None else judge.length_controlled
    return (
        f"{result.angle:g}",
        "yes" if result.covered else "no",
        f"{found.wins} / {found.losses} / {found.ties}",
        f"{found.win_rate.mean:.2f} ({found.win_rate.low:.2f} to {found.win_rate.high:.2f})",
        f"{found.gain.mean:+.4f} ({found.gain.low:+.4f} to {found.gain.high:+.4f})",
        f"{found.sign_p:.2g}",
        "" if judge is None else f"{judge.mean:.2f} ({judge.low:.2f} to {judge.high:.2f})",
        "" if controlled is None else f"{controlled:.2f}",
        f"{result.words['rps']:.1f} / {result.words['best_of_n']:.1f}",
    )


def picture(results: Sequence["AngleResult"]) -> Figure:
    """Gain by angle with its interval; what training covered in another colour."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.4), layout="constrained")
        axes = figure.subplots()
        axes.axhline(0.0, color="#666666", linewidth=1)
        for covered, colour, label in ((False, BEYOND, "beyond training"), (True, COVERED, "training covered it")):
            shown = [result for result in results if result.covered == covered]
            gains = [result.comparison.gain for result in shown]
            spread = [[g.mean - g.low for g in gains], [g.high - g.mean for g in gains]]
            if shown:
                angles = [result.angle for result in shown]
                axes.errorbar(angles, [g.mean for g in gains], spread, fmt="o", color=colour, capsize=3, label=label)
        axes.set_xlabel("preferred direction, degrees")
        axes.set_ylabel("rps minus best-of-n")
        axes.set_title("Reward of the chosen answer along the preferred direction", fontsize=10, loc="left")
        axes.legend(frameon=False)
    return figure
