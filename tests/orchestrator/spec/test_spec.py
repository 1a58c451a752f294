"""All faults of a job are reported at once, each at its field."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.contract import Check, Params
from orchestrator.errors import SpecError
from orchestrator.report import published_rows
from orchestrator.spec import EvaluateParams, Resources, TuneParams, load_job
from pipelines import KINDS
from pipelines.cat.params import ModelParams


def faults_of(stages: str, folder: Path) -> list[str]:
    (folder / "job.yaml").write_text(f"name: n\nstore: /s\nstages:\n{stages}")
    rows = {name: row.kind for name, row in published_rows().items()}
    with pytest.raises(SpecError) as caught:
        load_job(folder / "job.yaml", kinds=KINDS, published=rows, base_dir=folder)
    return [str(fault).removeprefix(f"{folder}/job.yaml:") for fault in caught.value.faults]


def test_each_pretrain_field_that_does_not_fit_is_a_fault(tmp_path: Path) -> None:
    stage = """\
  pretrain:
    kind: pretrain
    data: d
    lr: 1.0e-4
    min_lr: 1.0e-3
    warmup_lr: 2.0e-3
    batch_size: 33
    accumulate: 64
    reset_head: true
    scale: [0.9, 0.5]
    ratio: [2, 1]
    img_size: 16
    model: {patch_size: 32}
"""
    assert faults_of(stage, tmp_path) == [
        "8:13: stages.pretrain.min_lr: min_lr 0.001 exceeds the peak learning rate, lr 0.0001",
        (
            "9:16: stages.pretrain.warmup_lr: warmup_lr 0.002 exceeds the peak learning rate, lr "
            "0.0001"
        ),
        (
            "10:17: stages.pretrain.batch_size: batch_size 33 is odd, but mixup and cutmix mix "
            "images in pairs"
        ),
        "11:17: stages.pretrain.accumulate: accumulate 64 exceeds batch_size 33",
        (
            "12:17: stages.pretrain.reset_head: reset_head: true needs `weights`, whose head it "
            "replaces"
        ),
        ("13:12: stages.pretrain.scale: scale: minimum 0.9 exceeds maximum 0.5; write [0.5, 0.9]"),
        "14:12: stages.pretrain.ratio: ratio: minimum 2 exceeds maximum 1; write [1, 2]",
        "15:15: stages.pretrain.img_size: img_size 16 is less than the model's patch_size 32",
    ]


def test_other_fields_of_a_faulty_stage_are_still_checked(tmp_path: Path) -> None:
    stage = """\
  pretrain:
    kind: pretrain
    data: ~/images
    epoch: 3
    hflip: 1.5
    batch_size: none
    lr: 1.0e-4
    min_lr: 1.0e-3
    accumulate: 64
    scale: [0.9, 0.5]
    model: {embed_dim: 0, depths: [1, 1], img_size: 8, patch_size: 16}
    seed: -1
    resources: {workers: [4, 2], gpus_per_worker: 1.5, cpus_per_worker: 0}
    expect: {top6: ">= 95", top1: 95}
    published: imagenet1k/cat_smal
    params_from: nowhere.best_params
"""
    assert faults_of(stage, tmp_path) == [
        "6:11: stages.pretrain.data: ~ is not expanded; write the full path, not '~/images'",
        "7:5: stages.pretrain.epoch: unknown field, did you mean 'epochs'?",
        "8:12: stages.pretrain.hflip: must be at most 1, not 1.5",
        "9:17: stages.pretrain.batch_size: must be a whole number, not 'none'",
        "11:13: stages.pretrain.min_lr: min_lr 0.001 exceeds the peak learning rate, lr 0.0001",
        ("13:12: stages.pretrain.scale: scale: minimum 0.9 exceeds maximum 0.5; write [0.5, 0.9]"),
        "14:24: stages.pretrain.model.embed_dim: must be at least 1, not 0",
        "14:35: stages.pretrain.model.depths: num_heads has 4 stages, but depths has 2",
        "14:68: stages.pretrain.model.patch_size: patch_size 16 exceeds img_size 8",
        "15:11: stages.pretrain.seed: must be at least 0, not -1",
        (
            "16:26: stages.pretrain.resources.workers: workers: minimum 4 exceeds maximum 2; "
            "write [2, 4]"
        ),
        (
            "16:51: stages.pretrain.resources.gpus_per_worker: gpus_per_worker above 1 must be a "
            "whole number, not 1.5"
        ),
        "16:73: stages.pretrain.resources.cpus_per_worker: must be at least 1, not 0",
        "17:14: stages.pretrain.expect.top6: unknown metric, did you mean 'top5'?",
        (
            "17:35: stages.pretrain.expect.top1: must be a comparison in quotes such as '>= 95', "
            "not 95"
        ),
        "18:16: stages.pretrain.published: unknown published row 'imagenet1k/cat_smal', "
        "did you mean 'imagenet1k/cat_small'?",
        "19:18: stages.pretrain.params_from: unknown stage 'nowhere'; known: pretrain",
    ]


def test_check_that_reads_a_faulty_field_reports_nothing(tmp_path: Path) -> None:
    stage = (
        "  p: {kind: pretrain, data: d, lr: fast, min_lr: 0.9, warmup_lr: 0.9, batch_size: 31, "
        "mixup: -1, cutmix: 0}\n"
    )
    assert faults_of(stage, tmp_path) == [
        "4:36: stages.p.lr: must be a number, not 'fast'",
        "4:94: stages.p.mixup: must be at least 0, not -1",
    ]


def test_each_downstream_field_that_does_not_fit_is_a_fault(tmp_path: Path) -> None:
    stages = """\
  detect:
    kind: detection
    data: d
    method: fcos
    epochs: 0
    init: scratch
    backbone: /cat.pth
    keep_backbone: true
    anchor_scale: 4
    masks: true
    channels: 30
    milestones: [9, 3]
    classes: [cat, cat]
    num_classes: 3
    schedule: cosine
    min_lr: 1
    expect: {mask_map: ">= 1"}
  segment:
    kind: segmentation
    data: d
    config: mmseg::a.py
    method: upernet
    warmup_iters: 100
    max_iters: 50
    min_lr: 1
    layer_decay: 0.5
    ratio_range: [2, 1]
"""
    found = faults_of(stages, tmp_path)
    assert [fault.partition(": ")[0] + " " + fault.split(": ")[1] for fault in found] == [
        "8:13 stages.detect.epochs",
        "10:15 stages.detect.backbone",
        "11:20 stages.detect.keep_backbone",
        "12:19 stages.detect.anchor_scale",
        "13:12 stages.detect.masks",
        "14:15 stages.detect.channels",
        "15:17 stages.detect.milestones",
        "16:14 stages.detect.classes",
        "17:18 stages.detect.num_classes",
        "19:13 stages.detect.min_lr",
        "20:14 stages.detect.expect.mask_map",
        "21:3 stages.segment.backbone",
        "24:13 stages.segment.config",
        "26:19 stages.segment.warmup_iters",
        "28:13 stages.segment.min_lr",
        "28:13 stages.segment.min_lr",
        "30:18 stages.segment.ratio_range",
    ]


def test_searches_and_evaluations_of_faulty_stages_are_checked(tmp_path: Path) -> None:
    stages = """\
  pretrain: {kind: pretrain, data: d, epoch: 3, hflip: 1.5, model: {embed_dim: 0}, params_from: search.best_params}
  search:
    kind: tune
    of: pretrain
    num_trial: 3
    space: {lrr: {uniform: [0.1, 0.2]}, lr: {uniform: [2, 1]}, scale: {choice: [[0.9, 0.5], [1]]}}
    overrides: {epochs: 0, batch_sizes: 8, data: $D, lr: 1.0e-4, min_lr: 1.0e-3}
    metric: top2
    expect: {top9: "> 1"}
  measure:
    kind: evaluate
    of: pretrain
    seed: -1
    overrides: {crop_pct: 2, crops: 1, accumulate: 0, weights: x.pth}
    expect: {top2: "> 1"}
  direct:
    kind: evaluate
    task: pretrain
    overrides: {epochs: 1}
    crop_pct: 2
    expect: {top2: "> 1"}
"""  # noqa: E501
    found = faults_of(stages, tmp_path)
    assert [fault.partition(": ")[0] + " " + fault.split(": ")[1] for fault in found] == [
        "4:39 stages.pretrain.epoch",
        "4:56 stages.pretrain.hflip",
        "4:80 stages.pretrain.model.embed_dim",
        "5:3 stages.search",
        "8:5 stages.search.num_trial",
        "9:13 stages.search.space.lrr",
        "9:41 stages.search.space.lr",
        "9:64 stages.search.space.scale.1",
        "9:81 stages.search.space.scale",
        "10:25 stages.search.overrides.epochs",
        "10:28 stages.search.overrides.batch_sizes",
        "10:50 stages.search.overrides.data",
        "10:74 stages.search.overrides.min_lr",
        "11:13 stages.search.metric",
        "16:11 stages.measure.seed",
        "17:27 stages.measure.overrides.crop_pct",
        "17:30 stages.measure.overrides.crops",
        "17:52 stages.measure.overrides.accumulate",
        "17:64 stages.measure.overrides.weights",
        "18:14 stages.measure.expect.top2",
        "19:3 stages.direct.data",
        "21:11 stages.direct.task",
        "22:16 stages.direct.overrides",
        "23:15 stages.direct.crop_pct",
        "24:14 stages.direct.expect.top2",
    ]


def test_faults_of_a_stage_are_reported_once(tmp_path: Path) -> None:
    stages = """\
  pretrain: {kind: pretrain, data: d, min_lr: 0.9, scale: [1, 0.1], model: {depths: [1]}}
  search: {kind: tune, of: pretrain, num_trials: 1, space: {lr: {uniform: [0.1, 0.2]}},
    overrides: {epochs: 1}}
  measure: {kind: evaluate, of: pretrain, overrides: {crop_pct: 1}}
"""
    assert [fault.split(": ")[1] for fault in faults_of(stages, tmp_path)] == [
        "stages.pretrain.min_lr",
        "stages.pretrain.scale",
        "stages.pretrain.model.depths",
    ]


def test_fields_that_depend_on_a_faulty_one_are_not_checked(tmp_path: Path) -> None:
    stages = """\
  pretrain: {kind: pretrain, data: d, batch_size: none}
  search: {kind: tune, of: pretrain, num_trials: 1, space: {lr: {uniform: [0.1, 0.2]}},
    overrides: {accumulate: 2000}}
  measure: {kind: evaluate, of: pretrain, overrides: {accumulate: 2000}}
  detect: {kind: detection, data: d, backbone: pretrain.checkpoint, method: none}
  boxes: {kind: evaluate, of: detect, overrides: {num_rois: 8}, expect: {mask_map: "> 1"}}
"""
    assert [fault.split(": ")[1] for fault in faults_of(stages, tmp_path)] == [
        "stages.pretrain.batch_size",
        "stages.detect.method",
    ]


def test_params_check_fields_only_in_checks() -> None:
    """Validators of a whole model run only if no field has a fault, and stop at the first error."""
    models: list[type[Params]] = [EvaluateParams, TuneParams, Resources, ModelParams]
    models += [kind.params for kind in KINDS.values()]
    models += [
        kind.evaluation.params
        for kind in KINDS.values()
        if kind.evaluation and kind.evaluation.params
    ]
    for model in models:
        assert list(model.__pydantic_decorators__.model_validators) == ["_fields_fit"], model


def test_a_model_made_in_code_has_all_faults_in_one_error() -> None:
    checks: tuple[Check, ...] = Resources().checks()
    assert [list(fields_fit()) for fields_fit in checks] == [[], [], [], []]
    with pytest.raises(
        ValueError,
        match=r"(?s)2 validation errors for Resources.workers.*minimum 4 exceeds maximum 2.*1\.5",
    ):
        Resources.model_validate_json('{"workers": [4, 2], "gpus_per_worker": 1.5}')


@pytest.mark.parametrize(
    ("matrix", "fault"),
    [
        ("{epochs: []}", "4:62: stages.p.matrix.epochs: must not be empty"),
        ("{epochs: 3}", "4:62: stages.p.matrix.epochs: must be a list of values, not 3"),
        (
            "{epochs: [1, 1]}",
            "4:3: stages.p.matrix: two cells are named p/1; use values that differ in letters or "
            "digits",
        ),
        (
            "{lr: [0.1]}",
            "4:62: stages.p.matrix.lr: is also a field of the stage; remove one of the two",
        ),
        ("{seed: [], lrr: [1]}", "4:62: stages.p.matrix.seed: must not be empty"),
        (
            "[]",
            (
                "4:53: stages.p.matrix: must map fields to lists of values, such as {seed: [0, "
                "1]}, or list cells"
            ),
        ),
    ],
)
def test_a_stage_with_a_faulty_matrix_is_still_checked(
    matrix: str, fault: str, tmp_path: Path
) -> None:
    stages = f"  p: {{kind: pretrain, data: d, lr: 0.1, hflip: 1.5, matrix: {matrix}}}\n"
    found = faults_of(
        stages + "  e: {kind: evaluate, of: p, seed: -1}\n  f: {kind: evaluate, of: p/*}\n",
        tmp_path,
    )
    assert [line for line in found if "p.hflip" in line or "e.seed" in line] == [
        "4:48: stages.p.hflip: must be at most 1, not 1.5",
        "5:36: stages.e.seed: must be at least 0, not -1",
    ]
    assert fault in found
    is_expanded = "lr: [0.1]" in matrix
    assert any("'p' is a matrix" in line for line in found) == is_expanded
    assert not any("has no cells" in line or "there are none" in line for line in found)
