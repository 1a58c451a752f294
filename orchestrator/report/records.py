"""Cells -> CSV by RFC 4180: one record a cell, with the fields of the JSON; numbers as measured, nothing for null."""

from __future__ import annotations

import csv
import io

from orchestrator.report.cells import Cell


def make_csv(cells: tuple[Cell, ...]) -> str:
    """A header and a record for each cell, ended by CRLF."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(Cell.model_fields))
    writer.writeheader()
    writer.writerows(cell.model_dump(mode="json") for cell in cells)
    return text.getvalue()
