"""Cells, lineages, histories and details -> one HTML document. Pure.

The document loads nothing: its policy forbids all requests, and its one script is named by its
sha256.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from orchestrator.report.cells import Cell
from orchestrator.report.content import ReportContent
from orchestrator.report.lineage import time_text
from orchestrator.report.notes import changes_of
from orchestrator.report.numbers import change_text, duration, number_text
from orchestrator.report.page.details import Budget
from orchestrator.report.page.graph import make_graph
from orchestrator.report.page.paper import make_tables
from orchestrator.report.page.stage import make_stage_view
from orchestrator.report.page.summary import make_summary
from orchestrator.report.page.timeline import make_timeline

PICTURE_BYTES = 5_000_000
"""Room for all pictures and plots together: a page of 500 stages stays below 10 MB."""
MAX_OPEN_STAGES = 12
"""A page of more stages begins with all of them closed."""
MAX_TIMELINE_ROWS = 150


@dataclass
class _Anchors:
    """Ids of sections: names of stages hold characters that ids cannot."""

    by_stage: dict[str, str] = field(default_factory=dict)

    def of(self, stage: str) -> str:
        return self.by_stage.setdefault(stage, f"stage-{len(self.by_stage) + 1}")


def make_page(content: ReportContent) -> str:
    """The document."""
    budget = Budget(PICTURE_BYTES)
    anchors = _Anchors()
    cells: dict[str, list[Cell]] = {name: [] for name in content.job.stages}
    for cell in content.cells:
        cells[cell.stage].append(cell)
    stages = [
        make_stage_view(name, tuple(of_stage), content, budget, anchor=anchors.of(name))
        for name, of_stage in cells.items()
    ]
    states = {stage.name: stage.state for stage in stages}
    timeline_keys = dict(list(content.keys.items())[:MAX_TIMELINE_ROWS])
    return _template().render(
        title=f"Report of {content.job.name}",
        job=content.job.name,
        summary=make_summary(content, stages),
        stages=stages,
        are_open=len(stages) <= MAX_OPEN_STAGES,
        tables=make_tables(content.job, content.cells, content.rows),
        timeline=make_timeline(timeline_keys, content.histories, states=states),
        num_not_in_timeline=len(content.keys) - len(timeline_keys),
        graph=make_graph({name: stage.needs for name, stage in content.job.stages.items()}, states),
        anchors=anchors,
        origin=content.origin,
        remarks=(*changes_of(content.origin), *content.remarks),
        num_left_out=budget.num_left_out,
        style=Markup(_resource("page.css")),  # noqa: S704 - our own file
        script=Markup(_resource("page.js")),  # noqa: S704 - our own file
        script_sha256=_sha256_of_script(),
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("orchestrator.report.page", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number_text,
        "change": change_text,
        "duration": duration,
        "when": time_text,
    }
    return environment.get_template("page.html.j2")


@cache
def _resource(name: str) -> str:
    return files("orchestrator.report.page").joinpath(name).read_text("utf-8")


@cache
def _sha256_of_script() -> str:
    """As a content security policy has it: of the text between the tags."""
    return base64.b64encode(hashlib.sha256(_resource("page.js").encode()).digest()).decode()
