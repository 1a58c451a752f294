"""Cells -> a table for the terminal. Prints nothing."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from orchestrator.report.cells import Cell, CellVerdict

STYLES = {CellVerdict.PASS: "green", CellVerdict.FAIL: "bold red", CellVerdict.NOT_RUN: "dim"}


def make_table(job_name: str, cells: tuple[Cell, ...], *, is_ascii: bool) -> Table:
    """One row a cell; a stage's name stands in its first row only."""
    has_published = any(cell.published is not None for cell in cells)
    table = Table(title=f"Report of {job_name}", box=box.ASCII if is_ascii else box.SIMPLE_HEAD, title_justify="left")
    table.add_column("stage")
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("expected", justify="right")
    if has_published:
        table.add_column("published", justify="right")
        table.add_column("delta", justify="right")
    table.add_column("verdict")
    table.add_column("key")
    stage = None
    for cell in cells:
        published = (_number(cell.published), _number(cell.delta, sign="+")) if has_published else ()
        table.add_row(
            cell.stage if cell.stage != stage else "",
            cell.metric,
            f"{cell.value:.2f} {cell.unit}" if cell.value is not None else "-",
            cell.expected or "",
            *published,
            Text(str(cell.verdict or ""), style=STYLES.get(cell.verdict, "") if cell.verdict else ""),
            cell.key[:8] if cell.key else "",
        )
        stage = cell.stage
    return table


def _number(value: float | None, sign: str = "") -> str:
    return "" if value is None else f"{value:{sign}.2f}"
