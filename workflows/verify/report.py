"""`report.html` of a verification: one page for somebody who was not there, in the style of a run's report.

Contract: every figure on the page comes from `summary.json` or from the runs it names. The page loads and runs nothing.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from workflows.report_run import compact, readable
from workflows.verify.plots import figures
from workflows.verify.settings import SETTINGS
from workflows.verify.summary import Outcomes


def write_report(output: Path, summary: Mapping[str, Any], outcomes: Outcomes) -> Path:
    """Write `report.html` into `output`, whole or not at all, and return its path."""
    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader([folder, folder.parent]), autoescape=True, undefined=StrictUndefined
    )
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.globals.update(readable=readable, compact=compact, spread=spread)
    drawn = figures(outcomes, SETTINGS, summary["arguments"]["exact"])
    page = environment.get_template("template.html").render(
        **{key: summary[key] for key in ("arguments", "objectives", "versions", "hardware", "commit", "command")},
        figures={name: Markup(image) for name, image in drawn.items()},
    )
    path = output / "report.html"
    partial = path.with_suffix(".html.partial")
    partial.write_text(page, encoding="utf-8")
    os.replace(partial, path)
    return path


def spread(figure: Mapping[str, Any], digits: int = 3) -> Markup:
    """Mean over seeds, and under it their range where there are several."""
    seeds, mean = figure["seeds"], f"{figure['mean']:.{digits}g}"
    if len(seeds) == 1:
        return Markup(mean)
    return Markup("{}<br><small>{} to {}</small>").format(mean, f"{min(seeds):.{digits}g}", f"{max(seeds):.{digits}g}")
