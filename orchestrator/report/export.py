"""Export reports as JSON and CSV, with every field and unrounded numbers."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict
from types import MappingProxyType

from pydantic import JsonValue

from orchestrator.artifact import Manifest
from orchestrator.history import StageHistory
from orchestrator.report.audit import Audits
from orchestrator.report.cells import Cell
from orchestrator.report.charts import thinned
from orchestrator.report.lineage import Lineage
from orchestrator.report.search import Search, search_json

TIMM_COLUMNS = (
    "model",
    "top1",
    "top1_err",
    "top5",
    "top5_err",
    "param_count",
    "img_size",
    "crop_pct",
    "interpolation",
)
"""The columns of timm's tables of results. `param_count` is in millions."""


def report_json(
    job_name: str,
    cells: tuple[Cell, ...],
    audits: Audits,
    searches: tuple[Search, ...] = (),
    *,
    histories: Mapping[str, StageHistory] = MappingProxyType({}),
    lineages: Mapping[str, Lineage] = MappingProxyType({}),
) -> dict[str, JsonValue]:
    """Return the document that docs/reference/report.md describes.

    `histories` and `lineages` are by stage. A curve has at most a thousand points or so, and none
    of its extremes is missing.
    """
    return {
        "schema": 2,
        "job": job_name,
        "cells": [cell.model_dump(mode="json") for cell in cells],
        "recipe_audit": {
            stage: {
                name: deviation.model_dump(mode="json") for name, deviation in deviations.items()
            }
            for stage, deviations in audits.items()
        },
        "searches": {search.stage: search_json(search) for search in searches},
        "curves": {
            stage: {
                name: [list(point) for point in thinned(curve)]
                for name, curve in history.curves.items()
            }
            for stage, history in histories.items()
        },
        "attempts": {
            stage: [asdict(attempt) for attempt in history.attempts]
            for stage, history in histories.items()
        },
        "lineage": {
            stage: {
                "key": lineage.key,
                "code": lineage.code,
                "data": lineage.data,
                "files": dict(lineage.files),
                "inputs": {one.field: one.sha256 for one in lineage.inputs},
                "facts": dict(lineage.facts),
                "command": lineage.command,
            }
            for stage, lineage in lineages.items()
        },
    }


def make_csv(
    cells: tuple[Cell, ...], manifests: Mapping[str, Manifest] = MappingProxyType({})
) -> str:
    """Return a header and a record for each cell, as CSV lines that end with CRLF.

    Records of classifiers also have timm's columns.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=[*Cell.model_fields, *TIMM_COLUMNS])
    writer.writeheader()
    values: dict[str, dict[str, float]] = {}
    for cell in cells:
        if cell.value is not None:
            values.setdefault(cell.stage, {})[cell.metric] = cell.value
    for cell in cells:
        of_timm = _timm_values(values.get(cell.stage, {}), manifests.get(cell.stage))
        writer.writerow({**cell.model_dump(mode="json"), **of_timm})
    return text.getvalue()


def _timm_values(values: Mapping[str, float], manifest: Manifest | None) -> dict[str, JsonValue]:
    """Return timm's columns for a classifier; other stages have none."""
    if "top1" not in values or "top5" not in values or manifest is None:
        return {}
    params = manifest.params
    return {
        "model": params.get("model"),
        "top1": values["top1"],
        "top1_err": 100 - values["top1"],
        "top5": values["top5"],
        "top5_err": 100 - values["top5"],
        "param_count": values.get("params_m"),
        **{name: params.get(name) for name in ("img_size", "crop_pct", "interpolation")},
    }
