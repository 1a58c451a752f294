"""Export reports as JSON, with every field and unrounded numbers, and as CSV."""

from __future__ import annotations

import csv
import io

from pydantic import JsonValue

from orchestrator.report.audit import Audits
from orchestrator.report.cells import Cell
from orchestrator.report.search import Search, search_json


def report_json(
    job_name: str, cells: tuple[Cell, ...], audits: Audits, searches: tuple[Search, ...] = ()
) -> dict[str, JsonValue]:
    """Return `{"schema": 1, "job", "cells": [...], "recipe_audit": {stage: {param: {"used",
    "reference"}}}, "searches": {stage: {..., "trials": [...]}}}`."""
    return {
        "schema": 1,
        "job": job_name,
        "cells": [cell.model_dump(mode="json") for cell in cells],
        "recipe_audit": {
            stage: {
                name: deviation.model_dump(mode="json") for name, deviation in deviations.items()
            }
            for stage, deviations in audits.items()
        },
        "searches": {search.stage: search_json(search) for search in searches},
    }


def make_csv(cells: tuple[Cell, ...]) -> str:
    """Return a header and a record for each cell, as CSV lines that end with CRLF."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(Cell.model_fields))
    writer.writeheader()
    writer.writerows(cell.model_dump(mode="json") for cell in cells)
    return text.getvalue()
