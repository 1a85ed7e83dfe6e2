"""The results of a round robin as a Markdown table, a JSON file and a heat map, each from the same figures."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from algorithms.tournament import Standings
from workflows.drawing import INK, STYLE
from workflows.run_directory import environment

READING = (
    "Each cell is the win rate of the row's policy against the column's, judged by the runs' own panel on the same "
    "prompts, with its 95% interval (bootstrap over prompts, paired). *Equilibrium* is the share of a policy in the "
    "mixture that no policy of the table beats; *exploitability* is how far the best of the others is above 1/2 "
    "against it."
)


def write_results(output: Path, names: Sequence[str], found: Standings, about: Mapping[str, Any]) -> list[Path]:
    """Write `output`.md, .json and .png; returns their paths. `about` says how the figures came about."""
    output.parent.mkdir(parents=True, exist_ok=True)
    prompts = found.win_rates[0][0].n
    paths = [output.with_name(output.name + suffix) for suffix in (".md", ".json", ".png")]
    paths[0].write_text(markdown(names, found, about, paths[2].name), encoding="utf-8")
    figures = {
        "policies": list(names),
        "prompts": prompts,
        **about,
        "win_rates": {
            row: {column: asdict(rate) for column, rate in zip(names, rates, strict=True)}
            for row, rates in zip(names, found.win_rates, strict=True)
        },
        "equilibrium": dict(zip(names, found.equilibrium.tolist(), strict=True)),
        "exploitability": dict(zip(names, found.exploitability.tolist(), strict=True)),
        "environment": environment(),
    }
    paths[1].write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    heat_map(names, found).savefig(paths[2], dpi=160)
    return paths


def markdown(names: Sequence[str], found: Standings, about: Mapping[str, Any], image: str) -> str:
    """The table, and what a reader needs to understand it."""
    header = ["policy", *(f"against {name}" for name in names), "equilibrium", "exploitability", "tokens"]
    rows = [
        [
            name,
            *("" if i == j else f"{r.mean:.3f} ({r.low:.3f} to {r.high:.3f})" for j, r in enumerate(rates)),
            f"{found.equilibrium[i]:.2f}",
            f"{found.exploitability[i]:.3f}",
            f"{about['tokens'][name]:.1f}",
        ]
        for i, (name, rates) in enumerate(zip(names, found.win_rates, strict=True))
    ]
    runs = [
        [name, run["objective"], f"`{json.dumps(run['options'])}`", run["versions"], run["completions"], run["seconds"]]
        for name, run in about["runs"].items()
    ]
    prompts = found.win_rates[0][0].n
    return "\n".join(
        [
            "# Round robin",
            "",
            f"{about['samples']} answers of each policy to each of {prompts} held-out prompts, every answer against "
            "every other policy's answers to the same prompt.",
            "",
            *_table(header, rows),
            "",
            READING,
            "",
            *_table(["run", "objective", "options", "versions", "completions trained on", "wall seconds"], runs),
            "",
            f"![Win rates of the row against the column]({image})",
            "",
        ]
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    cells = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(f'{c:.0f}' if isinstance(c, float) else str(c) for c in row)} |" for row in cells]


def heat_map(names: Sequence[str], found: Standings) -> Figure:
    """Win rates [M, M] as colours around 1/2, with their figures."""
    means = np.array([[rate.mean for rate in rates] for rates in found.win_rates])
    reach = max(float(np.abs(means - 0.5).max()), 0.05)
    with matplotlib.rc_context({**STYLE, "axes.grid": False, "figure.facecolor": "white"}):
        figure = Figure(figsize=(2.5 + 0.8 * len(names), 1.5 + 0.7 * len(names)), layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(means, cmap="RdBu", vmin=0.5 - reach, vmax=0.5 + reach)
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
        axes.set_yticks(range(len(names)), names)
        axes.set_title("Win rate of the row against the column")
        for i, j in np.ndindex(means.shape):
            strong = abs(means[i, j] - 0.5) > 0.7 * reach
            axes.text(j, i, f"{means[i, j]:.2f}", ha="center", va="center", color="white" if strong else INK)
        figure.colorbar(image, ax=axes, shrink=0.8)
    return figure
