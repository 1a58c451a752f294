"""Which stages are reproductions, and which deviations the others have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.artifact import Metric
from orchestrator.report import published_rows
from orchestrator.report.deviations import find_deviations, label_of
from orchestrator.spec import Job
from tests.orchestrator.report.paper import NUM_SAMPLES, load_paper, manifests

ROWS = published_rows()


def _judge(
    job: Job, stage: str, num_samples: dict[str, int | None] | None = None
) -> tuple[str | None, list[str]]:
    """Return the label of a stage compared with its row, and the differences."""
    measured = manifests(NUM_SAMPLES if num_samples is None else num_samples)
    row = ROWS[job.stages[stage].published or ""]
    deviations = find_deviations(job, job.stages[stage], row, manifests=measured, rows=ROWS)
    return label_of(deviations), [deviation.text for deviation in deviations]


@pytest.mark.parametrize("stage", ["pretrain", "scenes"])
def test_defaults_on_the_whole_data_are_a_reproduction(stage: str, tmp_path: Path) -> None:
    assert _judge(load_paper(tmp_path), stage) == (None, [])


@pytest.mark.parametrize(
    "override",
    [
        "pretrain.num_classes=1000",
        "pretrain.loader_workers=16",
        "pretrain.checkpoint_every=5",
        "pretrain.resources={workers: 8, gpus_per_worker: 1}",
        "pretrain.seed=3",
        "pretrain.data=elsewhere",
        "pretrain.epochs=300",
        "pretrain.clip_grad=5",
        "pretrain.expect={top1: '> 81'}",
        # values that the kind uses anyway, written out
        "pretrain.lr=1.0e-3",
        "pretrain.min_lr=1.0e-5",
        "pretrain.warmup_lr=1.0e-6",
        "pretrain.img_size=224",
        "pretrain.drop_path_rate=0.2",
        (
            "pretrain.model={embed_dim: 96, depths: [1, 1, 3, 1], num_heads: [3, 6, 12, 24], "
            "drop_path_rate: 0.2}"
        ),
    ],
)
def test_fields_outside_the_recipe_change_no_label(override: str, tmp_path: Path) -> None:
    assert _judge(load_paper(tmp_path, override), "pretrain") == (None, [])


@pytest.mark.parametrize(
    ("overrides", "label", "differs"),
    [
        (["epochs=10"], "short schedule", ["epochs 10 instead of 300"]),
        (["epochs=299"], "short schedule", ["epochs 299 instead of 300"]),
        (["epochs=301"], "other recipe", ["epochs 301 instead of 300"]),
        (["lr=2.0e-3"], "other recipe", ["lr 0.002 instead of null"]),
        (["min_lr=1.0e-6"], "other recipe", ["min_lr 1e-06 instead of null"]),
        (["img_size=192"], "other recipe", ["img_size 192 instead of null"]),
        (["batch_size=512"], "other recipe", ["batch_size 512 instead of 1024"]),
        (["precision=bf16"], "other recipe", ["precision bf16 instead of fp16"]),
        (["scale=[0.7, 1.0]"], "other recipe", ["scale [0.7, 1.0] instead of [0.08, 1.0]"]),
        (
            ["auto_augment=null"],
            "other recipe",
            ["auto_augment null instead of rand-m9-mstd0.5-inc1"],
        ),
        (
            ["epochs=10", "warmup_epochs=1"],
            "other recipe",
            ["epochs 10 instead of 300", "warmup_epochs 1 instead of 20"],
        ),
        (["model=cat_tiny"], "other model", ["model cat_tiny instead of cat_small"]),
        (
            ["model=cat_base", "epochs=10"],
            "other model, short schedule",
            ["model cat_base instead of cat_small", "epochs 10 instead of 300"],
        ),
        (
            ["model=cat_base", "hflip=0.0"],
            "other model, other recipe",
            ["model cat_base instead of cat_small", "hflip 0.0 instead of 0.5"],
        ),
        (
            ["params_from=search.best_params"],
            "other recipe",
            ["drop_path_rate searched", "lr searched"],
        ),
        (
            ["params_from=search.best_params", "epochs=10", "lr=1.0e-3"],
            "other recipe",
            ["epochs 10 instead of 300", "drop_path_rate searched", "lr searched"],
        ),
    ],
)
def test_each_differing_param_of_the_key_is_listed(
    overrides: list[str], label: str, differs: list[str], tmp_path: Path
) -> None:
    job = load_paper(tmp_path, *(f"pretrain.{override}" for override in overrides))
    assert _judge(job, "pretrain") == (label, differs)


def test_model_and_class_names_only_check(tmp_path: Path) -> None:
    job = load_paper(
        tmp_path, "scenes.model=cat_small", "scenes.classes=[wall, sky]", "scenes.lr=6.0e-5"
    )
    assert _judge(job, "scenes") == (None, [])
    assert _judge(load_paper(tmp_path, "scenes.lr=6.0e-4"), "scenes")[1] == [
        "lr 0.0006 instead of null"
    ]


def test_model_with_own_settings_is_not_the_published_model(tmp_path: Path) -> None:
    label, (text,) = _judge(load_paper(tmp_path, "pretrain.model={img_size: 56}"), "pretrain")
    assert label == "other model"
    assert text.startswith('model {"img_size": 56, ')
    assert text.endswith(" instead of cat_small")


def test_row_without_a_released_config_has_no_reproduction(tmp_path: Path) -> None:
    job = load_paper(tmp_path, "pretrain.published=imagenet1k/cat_tiny_v2")
    assert _judge(job, "pretrain") == ("other model", ["model cat_small instead of cat_tiny_v2"])


@pytest.mark.parametrize(
    ("num_samples", "text"),
    [(360, "360 val images instead of 50000"), (49_999, "49999 val images instead of 50000")],
)
def test_other_number_of_val_images_is_a_deviation(
    num_samples: int, text: str, tmp_path: Path
) -> None:
    assert _judge(load_paper(tmp_path), "pretrain", {"pretrain": num_samples}) == (
        "other data",
        [text],
    )


def test_unknown_number_of_val_images_is_a_deviation(tmp_path: Path) -> None:
    seen = _judge(load_paper(tmp_path), "pretrain", {"pretrain": None})
    assert seen == ("other data", ["null val images instead of 50000"])


def test_unpublished_metrics_do_not_count_as_other_data(tmp_path: Path) -> None:
    job, measured = load_paper(tmp_path), manifests()
    wait = Metric(name="data_wait", value=3.0, num_samples=None)
    size = Metric(name="params_m", value=37.3, unit="M", num_samples=None)
    manifest = measured["pretrain"]
    measured["pretrain"] = manifest.model_copy(update={"metrics": (*manifest.metrics, wait, size)})
    stage, row = job.stages["pretrain"], ROWS["imagenet1k/cat_small"]
    assert find_deviations(job, stage, row, manifests=measured, rows=ROWS) == ()


def test_label_lists_reasons_of_recipe_and_data(tmp_path: Path) -> None:
    label, differs = _judge(
        load_paper(tmp_path, "pretrain.epochs=10"), "pretrain", {"pretrain": 360}
    )
    assert label == "short schedule, other data"
    assert differs == ["epochs 10 instead of 300", "360 val images instead of 50000"]


@pytest.mark.parametrize(
    ("override", "label", "text"),
    [
        ("epochs=100", "short schedule", "pretrain: epochs 100 instead of 300"),
        ("mixup=0.0", "other recipe", "pretrain: mixup 0.0 instead of 0.8"),
        ("model=cat_tiny", "other model", "pretrain: model cat_tiny instead of cat_small"),
    ],
)
def test_stage_inherits_a_deviation_of_its_backbone(
    override: str, label: str, text: str, tmp_path: Path
) -> None:
    # the backbone is compared with the row that the scenes build on, not with its own row
    job = load_paper(tmp_path, f"pretrain.{override}", "pretrain.published=null")
    assert _judge(job, "scenes") == (label, [text])


def test_stage_lists_all_deviations_of_its_backbone(tmp_path: Path) -> None:
    job = load_paper(tmp_path, "pretrain.params_from=search.best_params", "scenes.max_iters=40000")
    label, differs = _judge(job, "scenes", {"pretrain": 360, "scenes": 2000})
    assert label == "other recipe, short schedule, other data"
    assert differs == [
        "max_iters 40000 instead of 80000",
        "pretrain: drop_path_rate searched",
        "pretrain: lr searched",
        "pretrain: 360 val images instead of 50000",
    ]


def test_backbone_without_a_manifest_is_a_deviation(tmp_path: Path) -> None:
    label, (text,) = _judge(load_paper(tmp_path), "scenes", {"scenes": 2000})
    assert label == "other data"
    assert text == "pretrain: no manifest with the number of val images that it was measured on"


def test_backbone_from_outside_the_job_is_a_deviation(tmp_path: Path) -> None:
    job = load_paper(tmp_path)
    outside = replace(job.stages["scenes"], inputs={})
    job = replace(job, stages={**job.stages, "scenes": outside})
    assert _judge(job, "scenes") == ("other recipe", ["backbone from outside the job"])


def test_stage_from_scratch_is_another_recipe(tmp_path: Path) -> None:
    job = load_paper(tmp_path)
    scenes = job.stages["scenes"]
    params = scenes.params.model_copy(
        update={"init": "scratch", "model": "cat_small", "backbone": None}
    )
    job = replace(job, stages={**job.stages, "scenes": replace(scenes, inputs={}, params=params)})
    label, differs = _judge(job, "scenes")
    assert label == "other model, other recipe"
    assert differs == [
        "init scratch instead of pretrained",
        "model cat_small instead of null",
        "no backbone",
    ]


@pytest.mark.parametrize(
    ("weights", "text"),
    [
        ("cat.pth", "weights from outside the job"),
        ("other.checkpoint", "weights other.checkpoint, which was not published"),
    ],
)
def test_fine_tuning_is_another_recipe_than_pretraining(
    tmp_path: Path, weights: str, text: str
) -> None:
    other = "  other: {kind: pretrain, data: imagenet}\n"
    job = load_paper(tmp_path, f"pretrain.weights={weights}", more=other)
    assert _judge(job, "pretrain") == ("other recipe", [text])


def test_default_is_short_for_a_longer_published_schedule(tmp_path: Path) -> None:
    row = "scenes.published=ade20k/semantic_fpn_160k/cat_small"
    assert _judge(load_paper(tmp_path, row), "scenes") == (
        "short schedule",
        ["max_iters 80000 instead of 160000"],
    )
    assert _judge(load_paper(tmp_path, row, "scenes.max_iters=160000"), "scenes") == (None, [])


def test_stage_that_has_not_run_is_compared_by_its_recipe(tmp_path: Path) -> None:
    assert _judge(load_paper(tmp_path), "scenes", {}) == (None, [])
    assert _judge(load_paper(tmp_path, "pretrain.epochs=10"), "scenes", {})[0] == "short schedule"


def test_recipe_param_that_the_kind_lacks_is_a_deviation(tmp_path: Path) -> None:
    row = ROWS["imagenet1k/cat_small"]
    row = row.model_copy(update={"recipe": {**row.recipe, "distilled": True}})
    job = load_paper(tmp_path)
    deviations = find_deviations(job, job.stages["pretrain"], row, manifests=manifests(), rows=ROWS)
    assert label_of(deviations) == "other recipe"
    assert deviations[0].text == "distilled null instead of true"
