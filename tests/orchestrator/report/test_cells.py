"""Cells: each number next to the expected and the published one."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.artifact import Manifest, Metric
from orchestrator.report import Cell, make_cells, published_rows
from orchestrator.spec import Job, load_job
from tests.orchestrator.counting import KINDS
from tests.orchestrator.report.paper import load_paper, manifests

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
        key="a" * 64,
        stage=stage,
        kind="count",
        recipe={},
        params={},
        artifacts={},
        metrics=(metric,),
        provenance={},
    )


@pytest.fixture
def cells(job: Job) -> dict[str, Cell]:
    manifests = {stage: _manifest(stage, 5.0) for stage in ("good", "bad", "free")}
    return {cell.stage: cell for cell in make_cells(job, manifests, rows={})}


def test_verdict_follows_from_the_expectation(cells: dict[str, Cell]) -> None:
    verdicts = {stage: cell.verdict for stage, cell in cells.items()}
    assert verdicts == {"good": "pass", "bad": "fail", "free": None, "missing": "not_run"}


def test_cell_has_the_key_of_its_manifest(cells: dict[str, Cell]) -> None:
    assert cells["good"].value == 5.0
    assert cells["good"].unit == "%"
    assert cells["good"].key == "a" * 64
    assert cells["missing"].value is None
    assert cells["missing"].key is None
    assert cells["missing"].expected == "< 1"


def test_stage_without_a_published_row_is_not_compared(cells: dict[str, Cell]) -> None:
    good = cells["good"]
    assert (good.published, good.published_source, good.delta, good.label, good.differs) == (
        None,
    ) * 5


def _paper_cells(
    folder: Path, *overrides: str, stages: tuple[str, ...] = ("pretrain", "scenes")
) -> dict[str, Cell]:
    measured = {name: manifest for name, manifest in manifests().items() if name in stages}
    cells = make_cells(load_paper(folder, *overrides), measured, rows=published_rows())
    return {f"{cell.stage}.{cell.metric}": cell for cell in cells}


def test_delta_is_value_minus_published_unrounded(tmp_path: Path) -> None:
    cells = _paper_cells(tmp_path)
    top1, top5 = cells["pretrain.top1"], cells["pretrain.top5"]
    assert top1.published == 81.8
    assert top1.delta == 81.5 - 81.8
    assert top5.published == 95.6
    assert top5.delta == 95.7 - 95.6
    assert top1.published_source == "arXiv 2106.05786, ImageNet-1K, CAT-S*"
    assert top1.label is None
    assert top1.differs is None
    assert top1.shown_label == "reproduction"


def test_unpublished_metric_is_not_compared(tmp_path: Path) -> None:
    cells = _paper_cells(tmp_path, "pretrain.epochs=10")
    assert cells["scenes.miou"].published == 40.6
    assert cells["scenes.miou"].label == "short schedule"
    assert cells["scenes.macc"].published is None
    assert cells["scenes.macc"].label is None
    assert cells["scenes.macc"].shown_label == ""


def test_changed_recipe_has_a_label_and_its_differences(tmp_path: Path) -> None:
    cell = _paper_cells(tmp_path, "pretrain.epochs=10", "pretrain.lr=2.0e-3")["pretrain.top1"]
    assert cell.label == "other recipe"
    assert cell.shown_label == "other recipe"
    assert cell.differs == "epochs 10 instead of 300; lr 0.002 instead of null"


def test_unmeasured_metric_is_not_a_reproduction(tmp_path: Path) -> None:
    cell = _paper_cells(tmp_path, stages=())["pretrain.top1"]
    assert cell.value is None
    assert cell.published == 81.8
    assert cell.delta is None
    assert cell.verdict == "not_run"
    assert cell.label is None
    assert cell.shown_label == ""


def test_unknown_row_is_omitted(tmp_path: Path) -> None:
    cells = make_cells(load_paper(tmp_path), manifests(), rows={})
    assert {cell.published for cell in cells} == {None}
