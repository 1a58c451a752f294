"""Cells, lineages, histories and details -> the sections of a page, and one HTML document. Pure.

The document loads nothing: its policy forbids all requests, and its one script is named by its
sha256. The live page (`orchestrator.live`) shows the same sections in a document of its own.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from orchestrator.numbers import change_text, duration, number_text
from orchestrator.report.cells import Cell
from orchestrator.report.content import ReportContent
from orchestrator.report.lineage import time_text
from orchestrator.report.notes import changes_of
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
    scripts = (resource("page.js"),)
    return (
        make_environment()
        .get_template("page.html.j2")
        .render(
            title=f"Report of {content.job.name}",
            sections=make_sections(content),
            styles=(resource("page.css"),),
            scripts=scripts,
            policy=make_policy(scripts),
        )
    )


def make_sections(content: ReportContent) -> dict[str, Markup]:
    """The sections of the page in their order, by a name that each keeps while the job runs."""
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
    variables = {
        "job": content.job.name,
        "summary": make_summary(content, stages),
        "stages": stages,
        "are_open": len(stages) <= MAX_OPEN_STAGES,
        "tables": make_tables(content.job, content.cells, content.rows),
        "timeline": make_timeline(timeline_keys, content.histories, states=states),
        "num_not_in_timeline": len(content.keys) - len(timeline_keys),
        "graph": make_graph(
            {name: stage.needs for name, stage in content.job.stages.items()}, states
        ),
        "anchors": anchors,
        "origin": content.origin,
        "remarks": (*changes_of(content.origin), *content.remarks),
        "num_left_out": budget.num_left_out,
    }
    # A module's macros see the variables that it was made with.
    macros: Any = make_environment().get_template("sections.html.j2").make_module(variables)
    return {
        "summary": macros.summary_section(),
        "results": macros.results_section(),
        "paper": macros.paper_section(),
        "time": macros.time_section(),
        "stages": macros.stages_heading(),
        **{stage.anchor: macros.stage_section(stage) for stage in stages},
        "remarks": macros.remarks_section(),
        "origin": macros.origin_section(),
    }


@cache
def make_environment(*packages: str) -> Environment:
    """An environment with the page's templates and macros, and the templates of `packages`."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(name, ".") for name in (__package__, *packages)]),
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
    return environment


def make_policy(scripts: Sequence[str], *, more: str = "") -> Markup:
    """The content security policy of a page that loads nothing and has only `scripts`. `more` is
    text of ours."""
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    allowed = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    policy = f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:"
    return Markup(policy + more)  # noqa: S704 - digests and our own text


@cache
def resource(name: str, package: str = __package__) -> Markup:
    """A style or a script of ours, which needs no escapes."""
    return Markup(files(package).joinpath(name).read_text("utf-8"))  # noqa: S704 - our own file
