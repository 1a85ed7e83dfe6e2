"""`report.html` of an evaluation: one page for somebody who was not there, in the style of a run's report.

Contract: every figure on the page is in `evaluation.json`. The page loads and runs nothing; texts are escaped.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from actors.scorer import prompt_text
from workflows.answers import verdict
from workflows.evaluate.figures import Judged
from workflows.evaluate.plots import figures, heat
from workflows.report_run import compact, readable

SAMPLES = 8


def write_report(output: Path, summary: Mapping[str, Any], judged: Judged) -> Path:
    """Write `report.html` into `output`, whole or not at all, and return its path."""
    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader([folder, folder.parent]), autoescape=True, undefined=StrictUndefined
    )
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.globals.update(readable=readable, compact=compact, interval=interval, heat=heat, gap=gap)
    page = environment.get_template("template.html").render(
        summary=summary,
        samples=samples(judged),
        figures={name: Markup(image) for name, image in figures(summary).items()},
    )
    path = output / "report.html"
    partial = path.with_suffix(".html.partial")
    partial.write_text(page, encoding="utf-8", errors="replace")
    os.replace(partial, path)
    return path


def interval(figure: Mapping[str, float] | None, digits: int = 3) -> Markup:
    """A mean, and under it its 95% interval."""
    if figure is None:
        return Markup("not measured")
    low, high = f"{figure['low']:.{digits}f}", f"{figure['high']:.{digits}f}"
    return Markup("{}<br><small>{} to {}</small>").format(f"{figure['mean']:.{digits}f}", low, high)


def gap(policy: Mapping[str, Any]) -> str:
    """What a reader should make of a policy's win rate, in a few words."""
    rate, equal, gold = (policy.get(key) for key in ("proxy_win_rate", "length_controlled", "gold_win_rate"))
    assert rate is not None
    words = ["better" if rate["low"] > 0.5 else "worse" if rate["high"] < 0.5 else "not told apart"]
    if equal is not None and rate["low"] > 0.5 and equal["low"] <= 0.5:
        words.append("not shown at equal length")
    if gold is not None and rate["low"] > 0.5:
        words.append(
            "gold agrees" if gold["low"] > 0.5 else "gold says worse" if gold["high"] < 0.5 else "gold is open"
        )
    return "; ".join(words)


def samples(judged: Judged) -> list[dict[str, Any]]:
    """The first answer of every policy to some prompts, with its win rate against the first policy's answer."""
    shown = []
    for group in judged.proxy[:SAMPLES]:
        first = [int(judged.places(name, group)[0]) for name in judged.names]
        shown.append(
            {
                "prompt": prompt_text(group),
                "answers": [
                    {"name": name, "text": group.candidates[k].text, "rate": float(verdict(group)[k, first[0]])}
                    for name, k in zip(judged.names, first, strict=True)
                ],
            }
        )
    return shown
