"""Manifests -> Cells -> terminal and JSON."""

from orchestrator.report.cells import Cell, CellVerdict, make_cells, report_json
from orchestrator.report.terminal import make_table

__all__ = ["Cell", "CellVerdict", "make_cells", "make_table", "report_json"]
