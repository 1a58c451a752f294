"""Make reports from manifests and trials, for the terminal and as JSON, Markdown and CSV.

Cells show measured numbers next to the published ones."""

from orchestrator.report.audit import Audits, audit_lines, audits_of
from orchestrator.report.cells import Cell, CellVerdict, make_cells
from orchestrator.report.export import make_csv, report_json
from orchestrator.report.markdown import make_markdown
from orchestrator.report.notes import Origin, changes_of, notes_of
from orchestrator.report.published import PublishedRow, published_rows
from orchestrator.report.search import (
    Search,
    make_plots,
    make_searches,
    make_trials_table,
    search_lines,
)
from orchestrator.report.terminal import make_table

__all__ = [
    "Audits",
    "Cell",
    "CellVerdict",
    "Origin",
    "PublishedRow",
    "Search",
    "audit_lines",
    "audits_of",
    "changes_of",
    "make_cells",
    "make_csv",
    "make_markdown",
    "make_plots",
    "make_searches",
    "make_table",
    "make_trials_table",
    "notes_of",
    "published_rows",
    "report_json",
    "search_lines",
]
