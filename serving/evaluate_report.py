"""The comparison of rps with best-of-n as Markdown tables and a picture, from the same figures."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.axes import Axes
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
OBJECTIVES = ("#b5651d", "#2458a6", "#3a7d44", "#7a4a9c")
HEADER = (
    "angle",
    "trained there",
    "rps wins / loses / ties",
    "win rate, ties 1/2 (95%)",
    "length-controlled",
    "mean score rps / best-of-n",
    "gain (95%)",
    "sign test p",
    "judge (95%)",
    "judge, length-controlled",
    "words rps / best-of-n",
)
READING = (
    "Both methods choose among the same number of candidates by their reward along the preferred direction, which is "
    "the score. The gain is the mean difference of the chosen scores; intervals resample prompts, each with both its "
    "answers. Where training covered the direction the comparison is a negative control: rps should not win there."
)
FOLLOWED = "What one answer is rewarded with that was written for the direction (mean over best-of-n's candidates):"


def write_report(output: Path, results: Sequence["AngleResult"], about: Mapping[str, Any]) -> list[Path]:
    """Write `output`.md and .png; returns their paths."""
    image = output.with_suffix(".png")
    output.with_suffix(".md").write_text(markdown(results, about, image.name), "utf-8")
    picture(results, about["trained"]).savefig(image, dpi=160)
    return [output.with_suffix(".md"), image]


def markdown(results: Sequence["AngleResult"], about: Mapping[str, Any], image: str) -> str:
    """The tables, and what a reader needs to understand them."""
    asked = (
        f"{about['prompts']} prompts, k = {about['k']} candidates of either method, {about['max_tokens']} tokens, "
        f"neighbourhood {about['neighborhood']}."
    )
    objectives = tuple(results[0].written)
    followed = [(f"{result.angle:g}", *(f"{result.written[name]:.3f}" for name in objectives)) for result in results]
    return "\n".join(
        [
            *(
                "# Robust Preference Selection against best-of-n",
                "",
                asked,
                "",
                *_table(HEADER, map(_cells, results)),
                "",
                READING,
                "",
            ),
            *(FOLLOWED, "", *_table(("angle", *objectives), followed), ""),
            *(f"![Gain of rps over best-of-n, and rewards of one answer, by angle]({image})", ""),
        ]
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (header, ("---",) * len(header), *rows)]


def _cells(result: "AngleResult") -> tuple[str, ...]:
    found, judge = result.comparison, result.judge
    return (
        f"{result.angle:g}",
        "yes" if result.covered else "no",
        f"{found.wins} / {found.losses} / {found.ties}",
        f"{found.win_rate.mean:.2f} ({found.win_rate.low:.2f} to {found.win_rate.high:.2f})",
        _rate(result.length_controlled),
        f"{result.scores['rps']:.3f} / {result.scores['best_of_n']:.3f}",
        f"{found.gain.mean:+.4f} ({found.gain.low:+.4f} to {found.gain.high:+.4f})",
        f"{found.sign_p:.2g}",
        "" if judge is None else f"{judge.mean:.2f} ({judge.low:.2f} to {judge.high:.2f})",
        "" if judge is None else _rate(judge.length_controlled),
        f"{result.words['rps']:.1f} / {result.words['best_of_n']:.1f}",
    )


def _rate(rate: float | None) -> str:
    return "" if rate is None else f"{rate:.2f}"


def picture(results: Sequence["AngleResult"], trained: Sequence[float]) -> Figure:
    """Left the gain by angle with its interval, right what one answer for the angle is rewarded with.

    `trained`: the first and the last angle that training covered, in degrees.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 3.4), layout="constrained")
        gain, followed = figure.subplots(1, 2)
        _draw_gain(gain, results)
        _draw_rewards(followed, results, trained)
        for axes in (gain, followed):
            axes.set_xlabel("preferred direction, degrees")
    return figure


def _draw_gain(axes: Axes, results: Sequence["AngleResult"]) -> None:
    axes.axhline(0.0, color="#666666", linewidth=1)
    for covered, colour, label in ((False, BEYOND, "beyond training"), (True, COVERED, "training covered it")):
        shown = [result for result in results if result.covered == covered]
        gains = [result.comparison.gain for result in shown]
        spread = [[g.mean - g.low for g in gains], [g.high - g.mean for g in gains]]
        if shown:
            angles = [result.angle for result in shown]
            axes.errorbar(angles, [g.mean for g in gains], spread, fmt="o", color=colour, capsize=3, label=label)
    axes.set_title("Score of the chosen answer: rps minus best-of-n", fontsize=10, loc="left")
    axes.set_ylabel("gain in projected score, 95% interval")
    # Room for the legend above the intervals.
    axes.margins(y=0.25)
    axes.legend(frameon=False, loc="upper left", ncols=2)


def _draw_rewards(axes: Axes, results: Sequence["AngleResult"], trained: Sequence[float]) -> None:
    ordered = sorted(results, key=lambda result: result.angle)
    angles = [result.angle for result in ordered]
    axes.axvspan(*trained, color=COVERED, alpha=0.1, linewidth=0)
    for name, colour in zip(ordered[0].written, cycle(OBJECTIVES), strict=False):
        axes.plot(angles, [result.written[name] for result in ordered], "o-", color=colour, label=name)
    axes.set_title("Reward of one answer; training covered what is shaded", fontsize=10, loc="left")
    axes.set_ylabel("reward of an objective, mean")
    axes.legend(frameon=False)
