"""Manifests -> Cells: each number of the report beside what was expected of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from pydantic import JsonValue

from orchestrator.artifact import Manifest, Value
from orchestrator.spec import Job, Stage


class CellVerdict(StrEnum):
    PASS = "pass"
    FAIL = "fail"
    NOT_RUN = "not_run"


class Cell(Value):
    """A number in the report. `key` leads to the manifest that it comes from."""

    stage: str
    metric: str
    value: float | None
    unit: str
    expected: str | None
    published: float | None = None
    published_source: str | None = None
    delta: float | None = None
    verdict: CellVerdict | None
    key: str | None


def make_cells(job: Job, manifests: Mapping[str, Manifest]) -> tuple[Cell, ...]:
    """A cell for each metric of each stage, in the job's order; `manifests` by stage, without those not run."""
    return tuple(cell for name, stage in job.stages.items() for cell in _stage_cells(stage, manifests.get(name)))


def _stage_cells(stage: Stage, manifest: Manifest | None) -> list[Cell]:
    names = tuple(metric.name for metric in manifest.metrics) if manifest else stage.metrics
    # What is expected but was not measured shows too: an expectation never drops out of the report.
    return [_cell(stage, name, manifest) for name in dict.fromkeys([*names, *stage.expect])]


def _cell(stage: Stage, name: str, manifest: Manifest | None) -> Cell:
    expectation = stage.expect.get(name)
    metric = next((metric for metric in manifest.metrics if metric.name == name), None) if manifest else None
    if metric is None or manifest is None:
        verdict: CellVerdict | None = CellVerdict.NOT_RUN
    elif expectation is None:
        verdict = None
    else:
        verdict = CellVerdict.PASS if expectation.is_met_by(metric.value) else CellVerdict.FAIL
    return Cell(
        stage=stage.name,
        metric=name,
        value=metric.value if metric else None,
        unit=metric.unit if metric else "%",
        expected=str(expectation) if expectation else None,
        verdict=verdict,
        key=manifest.key if manifest and metric else None,
    )


def report_json(job: Job, cells: tuple[Cell, ...]) -> dict[str, JsonValue]:
    """The report as JSON: `{"schema": 1, "job", "cells": [...]}`."""
    return {"schema": 1, "job": job.name, "cells": [cell.model_dump(mode="json") for cell in cells]}
