"""The table of Cells for the terminal. Prints nothing."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from orchestrator.numbers import change_text, number_text
from orchestrator.report.cells import Cell, CellVerdict

STYLES = {CellVerdict.PASS: "green", CellVerdict.FAIL: "bold red", CellVerdict.NOT_RUN: "dim"}


def make_table(job_name: str, cells: tuple[Cell, ...], *, is_ascii: bool) -> Table:
    """Return a table with one row per cell. A stage's name is only in its first row."""
    has_published = any(cell.published is not None for cell in cells)
    table = Table(
        title=f"Report of {job_name}",
        box=box.ASCII if is_ascii else box.SIMPLE_HEAD,
        title_justify="left",
        pad_edge=is_ascii,  # the widest report of the tutorial fits 80 columns
    )
    _add_columns(table, has_published=has_published)
    stage = None
    for cell in cells:
        compared = (
            (number_text(cell.published), change_text(cell.delta), cell.shown_label)
            if has_published
            else ()
        )
        table.add_row(
            cell.stage if cell.stage != stage else "",
            cell.metric,
            cell.value_text,
            cell.expected or "",
            *compared,
            Text(
                str(cell.verdict or ""), style=STYLES.get(cell.verdict, "") if cell.verdict else ""
            ),
            cell.key[:8] if cell.key else "",
        )
        stage = cell.stage
    return table


def _add_columns(table: Table, *, has_published: bool) -> None:
    table.add_column("stage", overflow="fold")
    table.add_column("metric", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("expected", justify="right", no_wrap=True)
    if has_published:
        table.add_column("published", justify="right", no_wrap=True)
        table.add_column("delta", justify="right", no_wrap=True)
        table.add_column("label")
    table.add_column("verdict", no_wrap=True)
    table.add_column("key", no_wrap=True)
