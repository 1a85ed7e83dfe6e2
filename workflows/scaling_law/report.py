"""`report.html` of fitted laws: one page for somebody who was not there, in the style of a run's report.

Contract: every figure on the page is one of `law.json`. The page loads and runs nothing.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from workflows.report_run import compact, readable
from workflows.run_directory import environment
from workflows.scaling_law.plots import figures
from workflows.scaling_law.study import Study

REPORT = "report.html"


def write_report(directory: Path, studies: Sequence[Study], tables: Sequence[Path]) -> Path:
    """Write the page into `directory`, whole or not at all, and return its path."""
    folder = Path(__file__).parent
    pages = Environment(loader=FileSystemLoader([folder, folder.parent]), autoescape=True, undefined=StrictUndefined)
    pages.trim_blocks = pages.lstrip_blocks = True
    pages.globals.update(readable=readable, compact=compact)
    drawn = [
        {name: Markup(image) for name, image in figures(study, f"study{place}").items()}
        for place, study in enumerate(studies)
    ]
    page = pages.get_template("template.html").render(
        studies=list(zip(studies, drawn, strict=True)), tables=[str(table) for table in tables], **environment()
    )
    path = directory / REPORT
    partial = path.with_suffix(".html.partial")
    partial.write_text(page, encoding="utf-8")
    os.replace(partial, path)
    return path
