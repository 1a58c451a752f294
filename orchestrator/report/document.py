"""Cells -> JSON: every field of a cell, numbers as measured."""

from __future__ import annotations

from pydantic import JsonValue

from orchestrator.report.cells import Cell


def report_json(job_name: str, cells: tuple[Cell, ...]) -> dict[str, JsonValue]:
    """`{"schema": 1, "job", "cells": [...]}`."""
    return {"schema": 1, "job": job_name, "cells": [cell.model_dump(mode="json") for cell in cells]}
