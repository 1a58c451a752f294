"""An evaluation compared with a published row: inherited deviations and its own ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.artifact import Manifest, Metric, unit_of
from orchestrator.report import make_cells, published_rows
from orchestrator.report.cells import Cell
from orchestrator.report.deviations import find_deviations, label_of
from orchestrator.spec import Job
from tests.orchestrator.report.paper import load_paper, manifests

ROWS = published_rows()
BY_TASK = "task: pretrain, model: cat_small, precision: fp16, data: imagenet"
VALUES = {"top1": 81.5, "top5": 95.7, "params_m": 37.29, "flops_g": 6.06, "images_per_s_fp32": 11.0}


def _job(folder: Path, fields: str, *overrides: str) -> Job:
    row = "imagenet1k/cat_small"
    measured = f"  measured: {{kind: evaluate, published: {row}, {fields}}}\n"
    return load_paper(folder, *overrides, more=measured)


def _manifest(num_samples: int) -> Manifest:
    metrics = tuple(
        Metric(
            name=name,
            value=value,
            unit=unit_of(name),
            num_samples=num_samples if unit_of(name) == "%" else None,
        )
        for name, value in VALUES.items()
    )
    return Manifest(
        key="c" * 64,
        stage="measured",
        kind="evaluate",
        recipe={},
        params={},
        artifacts={},
        metrics=metrics,
        provenance={},
    )


def _judge(job: Job, *, num_samples: int = 50_000) -> tuple[str | None, list[str]]:
    """Return the label of the evaluation, and the differences."""
    measured = {**manifests(), "measured": _manifest(num_samples)}
    stage = job.stages["measured"]
    deviations = find_deviations(
        job, stage, ROWS[stage.published or ""], manifests=measured, rows=ROWS
    )
    return label_of(deviations), [deviation.text for deviation in deviations]


@pytest.mark.parametrize("fields", ["of: pretrain", f"{BY_TASK}, checkpoint: pretrain.checkpoint"])
def test_evaluation_of_a_reproduction_is_a_reproduction(fields: str, tmp_path: Path) -> None:
    assert _judge(_job(tmp_path, fields)) == (None, [])


def test_details_of_an_evaluation_are_not_deviations(tmp_path: Path) -> None:
    assert _judge(
        _job(tmp_path, "of: pretrain, overrides: {num_painted: 50, predictions: true}")
    ) == (None, [])


@pytest.mark.parametrize("fields", ["of: pretrain", f"{BY_TASK}, checkpoint: pretrain.checkpoint"])
def test_deviations_of_the_measured_stage_are_listed_once(fields: str, tmp_path: Path) -> None:
    job = _job(tmp_path, fields, "pretrain.epochs=10")
    assert _judge(job) == ("short schedule", ["pretrain: epochs 10 instead of 300"])
    job = _job(tmp_path, fields, "pretrain.params_from=search.best_params")
    assert _judge(job) == (
        "other recipe",
        ["pretrain: drop_path_rate searched", "pretrain: lr searched"],
    )


def test_overrides_of_an_evaluation_are_deviations(tmp_path: Path) -> None:
    job = _job(tmp_path, "of: pretrain, overrides: {crop_pct: 0.9}", "pretrain.epochs=10")
    assert _judge(job) == (
        "other recipe, short schedule",
        ["pretrain: epochs 10 instead of 300", "crop_pct 0.9 instead of 0.875"],
    )


def test_checkpoint_from_outside_is_another_recipe(tmp_path: Path) -> None:
    job = _job(tmp_path, f"{BY_TASK}, checkpoint: s3://models/cat_small.pth")
    assert _judge(job) == ("other recipe", ["checkpoint from outside the job"])


def test_recipe_of_the_measured_weights_is_compared(tmp_path: Path) -> None:
    fields = "kind: pretrain, model: cat_small, precision: fp16, data: x, hflip: 0.0"
    twin = f"of: pretrain, checkpoint: twin.checkpoint}}\n  twin: {{{fields}"
    label, differs = _judge(_job(tmp_path, twin))
    assert label == "other recipe, other data"
    assert differs[0] == "twin: hflip 0.0 instead of 0.5"


def test_other_number_of_val_images_is_a_deviation(tmp_path: Path) -> None:
    job = _job(tmp_path, "of: pretrain")
    assert _judge(job, num_samples=360) == ("other data", ["360 val images instead of 50000"])


def test_evaluation_has_a_cell_for_every_published_number(tmp_path: Path) -> None:
    job = _job(tmp_path, "of: pretrain")
    measured = {**manifests(), "measured": _manifest(50_000)}
    cells = {
        cell.metric: cell
        for cell in make_cells(job, measured, rows=ROWS)
        if cell.stage == "measured"
    }
    published = {name: cell.published for name, cell in cells.items()}
    assert published == {
        "top1": 81.8,
        "top5": 95.6,
        "params_m": 37,
        "flops_g": 5.9,
        "images_per_s_fp32": None,
    }
    assert [cell.shown_label for cell in cells.values()] == ["reproduction"] * 4 + [""]
    assert cells["params_m"].delta == pytest.approx(0.29)


def test_cells_that_were_not_measured_have_their_units(tmp_path: Path) -> None:
    cells = [
        cell
        for cell in make_cells(_job(tmp_path, "of: pretrain"), {}, rows=ROWS)
        if cell.stage == "measured"
    ]
    assert {_unit(cell) for cell in cells} == {
        "top1 %",
        "top5 %",
        "params_m M",
        "flops_g G",
        "images_per_s_fp32 images/s",
        "images_per_s_bf16 images/s",
    }


def _unit(cell: Cell) -> str:
    return f"{cell.metric} {cell.unit}"
