"""A published number is reproduced only by the published recipe, within the stated tolerance."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.artifact import Manifest, Metric
from orchestrator.report import make_cells, published_rows
from orchestrator.report.reproduce import (
    NO_CONFIGURATION,
    ReproducedCell,
    Reproduction,
    make_reproductions,
)
from tests.orchestrator.report.paper import load_paper, manifests

MEASURED = """
  measured: {kind: evaluate, of: pretrain, published: imagenet1k/cat_small}
"""


def judged(
    folder: Path, *overrides: str, **metrics: float
) -> dict[tuple[str, str], ReproducedCell]:
    """All published numbers, where the paper's pretraining and its evaluation gave `metrics`."""
    job = load_paper(folder, *overrides, more=MEASURED)
    values = {"top1": 81.8, "top5": 95.6, **metrics}
    trained = manifests({"pretrain": 50_000})["pretrain"]
    measured = tuple(
        Metric(name=name, value=value, num_samples=50_000) for name, value in values.items()
    )
    found: dict[str, Manifest] = {
        "pretrain": trained.model_copy(update={"metrics": measured[:2]}),
        "measured": trained.model_copy(update={"metrics": measured, "stage": "measured"}),
    }
    cells = make_cells(job, found, rows=published_rows())
    return {
        (cell.row, cell.metric): cell for cell in make_reproductions(job, cells, published_rows())
    }


@pytest.mark.parametrize(
    ("metric", "value", "verdict"),
    [
        ("top1", 81.3, Reproduction.PASS),
        ("top1", 90.0, Reproduction.PASS),
        ("top1", 81.29, Reproduction.FAIL),
        ("params_m", 37.29, Reproduction.PASS),
        ("params_m", 38.0, Reproduction.FAIL),
        ("flops_g", 5.94, Reproduction.PASS),
        ("flops_g", 6.2, Reproduction.FAIL),
    ],
)
def test_a_number_is_judged_by_its_kind(
    tmp_path: Path, metric: str, value: float, verdict: Reproduction
) -> None:
    cell = judged(tmp_path, **{metric: value})["imagenet1k/cat_small", metric]
    assert cell.verdict is verdict
    assert cell.value == value


def test_a_known_difference_passes_and_is_explained(tmp_path: Path) -> None:
    cell = judged(tmp_path, flops_g=6.063)["imagenet1k/cat_small", "flops_g"]
    assert cell.verdict is Reproduction.PASS
    assert cell.note == "counted 6.06; docs/deviations.md explains it"


def test_throughput_is_shown_and_not_judged(tmp_path: Path) -> None:
    cell = judged(tmp_path, images_per_s_bf16=1.0)["imagenet1k/cat_small", "throughput_v100"]
    assert cell.verdict is Reproduction.SHOWN
    assert cell.is_settled


def test_another_recipe_does_not_pass(tmp_path: Path) -> None:
    cell = judged(tmp_path, "pretrain.epochs=100", top1=85.0)["imagenet1k/cat_small", "top1"]
    assert cell.verdict is Reproduction.FAIL
    assert cell.label == "short schedule"


def test_a_row_without_a_configuration_says_so(tmp_path: Path) -> None:
    cell = judged(tmp_path)["imagenet1k/cat_tiny_v2", "top1"]
    assert cell.verdict is Reproduction.NOT_RUN
    assert cell.note == NO_CONFIGURATION


def test_every_published_number_is_judged_once(tmp_path: Path) -> None:
    wanted = [(name, metric) for name, row in published_rows().items() for metric in row.metrics]
    assert list(judged(tmp_path)) == wanted
