"""Numbers as tables show them: two decimals, a sign where it is a change, nothing for what is not there."""

from __future__ import annotations

from orchestrator.report.cells import Cell


def value_text(cell: Cell) -> str:
    """The cell's value with its unit; a dash where it was not measured."""
    return "-" if cell.value is None else f"{cell.value:.2f} {cell.unit}"


def number_text(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def change_text(value: float | None) -> str:
    """With its sign; a change that rounds to nothing is +0.00, be it up or down."""
    return "" if value is None else f"{round(value, 2) + 0.0:+.2f}"
