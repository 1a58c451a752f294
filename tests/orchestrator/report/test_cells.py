"""Cells: each number beside what was expected of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.artifact import Manifest, Metric
from orchestrator.report import Cell, make_cells, make_table
from orchestrator.spec import Job, load_job
from tests.orchestrator.counting import KINDS

JOB = """
name: counts
store: ./store
stages:
  good: {kind: count, data: data, expect: {total: ">= 5"}}
  bad: {kind: count, data: data, expect: {total: "> 10"}}
  free: {kind: count, data: data}
  missing: {kind: count, data: data, expect: {total: "< 1"}}
"""


@pytest.fixture
def job(tmp_path: Path) -> Job:
    (tmp_path / "job.yaml").write_text(JOB)
    return load_job(tmp_path / "job.yaml", kinds=KINDS, base_dir=tmp_path)


def _manifest(stage: str, value: float) -> Manifest:
    metric = Metric(name="total", value=value, num_samples=3)
    return Manifest(
        key="a" * 64, stage=stage, kind="count", recipe={}, params={}, artifacts={}, metrics=(metric,), provenance={}
    )


@pytest.fixture
def cells(job: Job) -> dict[str, Cell]:
    manifests = {stage: _manifest(stage, 5.0) for stage in ("good", "bad", "free")}
    return {cell.stage: cell for cell in make_cells(job, manifests)}


def test_a_verdict_follows_from_the_expectation(cells: dict[str, Cell]) -> None:
    verdicts = {stage: cell.verdict for stage, cell in cells.items()}
    assert verdicts == {"good": "pass", "bad": "fail", "free": None, "missing": "not_run"}


def test_a_cell_leads_to_its_manifest_by_key(cells: dict[str, Cell]) -> None:
    assert (cells["good"].value, cells["good"].unit, cells["good"].key) == (5.0, "%", "a" * 64)
    assert (cells["missing"].value, cells["missing"].key, cells["missing"].expected) == (None, None, "< 1")


def test_the_table_names_each_stage_once_and_shows_two_decimals(cells: dict[str, Cell]) -> None:
    table = make_table("counts", tuple(cells.values()), is_ascii=True)
    columns = {str(column.header): [str(cell) for cell in column.cells] for column in table.columns}
    assert columns["stage"] == ["good", "bad", "free", "missing"]
    assert columns["value"] == ["5.00 %", "5.00 %", "5.00 %", "-"]
    assert columns["verdict"] == ["pass", "fail", "", "not_run"]
