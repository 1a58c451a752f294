"""The published rows: the paper's numbers, and recipes that stages can follow."""

from __future__ import annotations

from importlib.resources import files

import pytest
from pydantic import ValidationError
from ruamel.yaml.constructor import DuplicateKeyError

from orchestrator.contract import Role
from orchestrator.report.published import PublishedRow, parse_rows, published_rows
from pipelines import KINDS

TEXT = files("orchestrator.report").joinpath("published.yaml").read_text("utf-8")
SCORES = {
    "imagenet1k": [{"top1": 80.3}, {"top1": 81.8}, {"top1": 82.8}, {"top1": 81.7}],
    "coco": [
        *({"box_map": 41.6, "mask_map": 38.6}, {"box_map": 41.8, "mask_map": 38.7}),
        *(
            {"box_map": 40.0},
            {"box_map": 41.0},
            {"box_map": 42.0},
            {"box_map": 42.5},
            {"box_map": 40.1},
        ),
        *(
            {"box_map": 41.4},
            {"box_map": 44.1},
            {"box_map": 44.8},
            {"box_map": 45.2},
            {"box_map": 46.3},
        ),
    ],
    "ade20k": [
        *({"miou": 40.6, "miou_ms_flip": 42.1}, {"miou": 42.2, "miou_ms_flip": 43.6}),
        *({"miou": 42.2, "miou_ms_flip": 42.8}, {"miou": 43.2, "miou_ms_flip": 44.9}),
    ],
}


@pytest.mark.parametrize("group", SCORES)
def test_published_scores_are_the_papers_in_its_order(group: str) -> None:
    rows = [row for row in published_rows().values() if row.id.startswith(f"{group}/")]
    other = {"top5", "params_m", "flops_g", "throughput_v100"}
    found = [
        {name: score for name, score in row.metrics.items() if name not in other} for row in rows
    ]
    assert found == SCORES[group]


def test_published_row_has_its_table_and_image_count() -> None:
    row = published_rows()["coco/fcos/cat_small"]
    assert row.source == "arXiv 2106.05786, COCO val2017, FCOS CAT-S"
    assert row.num_samples == 5_000
    assert row.metrics["params_m"] == 45
    assert row.metrics["flops_g"] == 245
    assert published_rows()["imagenet1k/cat_tiny"].metrics["throughput_v100"] == 857


@pytest.mark.parametrize("row", published_rows().values(), ids=lambda row: row.id)
def test_kind_of_a_row_has_the_inputs_of_the_row(row: PublishedRow) -> None:
    kind = KINDS[row.kind]
    missing = {misfit.steps[0] for misfit in kind.misfits(kind.params.model_construct())}
    assert set(row.inputs) == missing
    assert {published_rows()[followed].kind for followed in row.inputs.values()} <= {"pretrain"}


@pytest.mark.parametrize(
    "row",
    [row for row in published_rows().values() if row.kind != "detection"],
    ids=lambda row: row.id,
)
def test_defaults_and_recipe_set_every_param_of_the_key(row: PublishedRow) -> None:
    fields = KINDS[row.kind].params.model_fields
    assert set(row.recipe) <= set(fields)
    roles = set(Role)
    required = {
        name
        for name, info in fields.items()
        if info.is_required() and roles.isdisjoint(info.metadata)
    }
    assert required <= set(row.recipe)


def test_duplicate_id_is_refused() -> None:
    with pytest.raises(DuplicateKeyError):
        parse_rows(TEXT.replace("imagenet1k/cat_base:", "imagenet1k/cat_small:"))
    with pytest.raises(AssertionError, match="ids of COCO val2017 are also in an earlier table"):
        parse_rows(TEXT.replace("coco/fcos/cat_small:", "imagenet1k/cat_small:"))


def test_published_row_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        published_rows()["imagenet1k/cat_small"].num_samples = 1  # type: ignore[misc]
