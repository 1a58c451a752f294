"""The configs of the five detectors: their differences from mmdet's baselines, and the params that
they refuse."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import mmdet
import pytest
from pydantic import ValidationError

from orchestrator.errors import SpecError
from orchestrator.spec import load_job
from pipelines import KINDS
from pipelines.detection.config import multi_scale
from pipelines.detection.model import BUILDERS, make_model
from pipelines.detection.params import DetectionParams
from pipelines.detection.traits import METHODS, MethodName
from pipelines.openmmlab.library import Config
from pipelines.openmmlab.recipe import NORMALISATION
from pipelines.training.metrics import TRAINING

BASELINES: dict[MethodName, str] = {
    "mask_rcnn": "mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py",
    "retinanet": "retinanet/retinanet_r50_fpn_1x_coco.py",
    "fcos": "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py",
    "atss": "atss/atss_r50_fpn_1x_coco.py",
    "cascade_rcnn": "cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py",
}
WIDTHS = (96, 192, 384, 768)


def _params(method: str, **fields: object) -> DetectionParams:
    content = {"method": method, "backbone": "p.checkpoint", "data": "/coco", **fields}
    return DetectionParams.model_validate_json(json.dumps(content))


def _model(method: str, **fields: object) -> dict[str, Any]:
    return make_model(
        _params(method, **fields), backbone={"type": "CAT"}, widths=WIDTHS, num_classes=80
    )


def test_methods_and_networks_match_one_to_one() -> None:
    assert BUILDERS.keys() == METHODS.keys() == BASELINES.keys()


@pytest.mark.parametrize("method", BASELINES)
def test_model_differs_from_mmdet_baseline_only_in_backbone(
    method: MethodName,
) -> None:
    (package,) = mmdet.__path__
    baseline = Config.fromfile(
        Path(package) / ".mim" / "configs" / BASELINES[method]
    ).model.to_dict()
    baseline["backbone"] = {"type": "CAT"}
    baseline["neck"]["in_channels"] = list(WIDTHS)
    baseline["data_preprocessor"].update(NORMALISATION)
    ours = copy.deepcopy(_model(method))
    # our configs write out these defaults of mmdet
    if method in ("fcos", "atss"):
        assert ours["bbox_head"].pop("norm_cfg") == {
            "type": "GN",
            "num_groups": 32,
            "requires_grad": True,
        }
    if method == "retinanet":
        assert ours["train_cfg"]["assigner"].pop("match_low_quality") is True
    assert ours == baseline


def test_fcos_can_normalise_images_like_the_reference() -> None:
    (package,) = mmdet.__path__
    baseline = Config.fromfile(
        Path(package) / ".mim" / "configs" / BASELINES["fcos"]
    ).model.to_dict()
    assert (
        _model("fcos", fidelity="reference")["data_preprocessor"] == baseline["data_preprocessor"]
    )
    assert _model("fcos")["data_preprocessor"]["bgr_to_rgb"] is True
    for method in ("atss", "retinanet", "cascade_rcnn", "mask_rcnn"):
        assert _model(method, fidelity="reference") == _model(method)


def test_settings_reach_the_model() -> None:
    two_stage = _model("cascade_rcnn", anchor_scale=2, fc_channels=16, num_rois=8, channels=24)
    assert two_stage["rpn_head"]["anchor_generator"]["scales"] == [2.0]
    assert {head["fc_out_channels"] for head in two_stage["roi_head"]["bbox_head"]} == {16}
    assert {stage["sampler"]["num"] for stage in two_stage["train_cfg"]["rcnn"]} == {8}
    for method in ("retinanet", "atss"):
        assert (
            _model(method, anchor_scale=1.5)["bbox_head"]["anchor_generator"]["octave_base_scale"]
            == 1.5
        )


@pytest.mark.parametrize(
    ("method", "fields", "fault"),
    [
        ("fcos", {"anchor_scale": 8}, r"anchor_scale\s+fcos has no such setting; leave it out"),
        ("atss", {"num_rois": 512}, r"num_rois\s+atss has no such setting"),
        (
            "retinanet",
            {"num_rois": 64, "fc_channels": 64},
            r"(?s)fc_channels\s+retinanet has .*num_rois\s+retinanet has",
        ),
        ("fcos", {"channels": 20}, r"channels\s+must be a multiple of 8 with fcos, .* not 20"),
        ("yolo", {}, "method"),
    ],
)
def test_params_that_a_method_cannot_use_are_refused(
    method: str, fields: dict[str, Any], fault: str
) -> None:
    with pytest.raises(ValidationError, match=fault):
        _params(method, **fields)


@pytest.mark.parametrize("method", METHODS)
def test_defaults_of_a_method_survive_a_search_over_them(method: MethodName) -> None:
    params = _params(method)
    assert params.settings == METHODS[method].settings
    assert params.overlay({"lr": 1e-3}).settings == params.settings


def test_search_over_methods_uses_the_defaults_of_each() -> None:
    assert _params("mask_rcnn").overlay({"method": "fcos"}).settings == METHODS["fcos"].settings


def test_multi_scale_training_equals_detr_at_published_size() -> None:
    straight, cropped = multi_scale(long=1333, short=800)["transforms"]
    assert straight[0]["scales"] == [(short, 1333) for short in range(480, 801, 32)]
    assert cropped[0]["scales"] == [(400, 1333), (500, 1333), (600, 1333)]
    assert cropped[1]["crop_size"] == (384, 600)
    assert cropped[2] == straight[0]
    small = multi_scale(long=128, short=128)["transforms"][0][0]
    assert small["scales"][0] == (77, 128)
    assert small["scales"][-1] == (128, 128)


def _job(tmp_path: Path, stage: str) -> Path:
    pretrain = "  pretrain: {kind: pretrain, data: sample:digits}\n"
    path = tmp_path / "job.yaml"
    path.write_text(
        f"name: job\nstore: store\nstages:\n{pretrain}  coco:\n    kind: detection\n{stage}"
    )
    return path


COMMON = "    backbone: pretrain.checkpoint\n    data: sample:digits\n"


def test_expected_mask_metric_is_refused_for_a_box_method(tmp_path: Path) -> None:
    path = _job(
        tmp_path, f"{COMMON}    method: fcos\n    expect: {{box_map: '> 1', mask_map50: '> 1'}}\n"
    )
    with pytest.raises(
        SpecError, match=r"job\.yaml:10:30: stages\.coco\.expect\.mask_map50: unknown metric"
    ):
        load_job(path, kinds=KINDS, base_dir=tmp_path)


def test_expected_mask_metric_is_accepted_for_mask_rcnn(tmp_path: Path) -> None:
    path = _job(tmp_path, f"{COMMON}    method: mask_rcnn\n    expect: {{mask_map50: '> 1'}}\n")
    job = load_job(path, kinds=KINDS, base_dir=tmp_path)
    scores = ("box_map", "box_map50", "mask_map", "mask_map50")
    assert job.stages["coco"].metrics == (*scores, "params_m", "flops_g", *TRAINING)


def test_unused_setting_of_a_method_is_refused_at_its_stage(tmp_path: Path) -> None:
    path = _job(tmp_path, f"{COMMON}    method: fcos\n    num_rois: 64\n")
    with pytest.raises(
        SpecError, match=r"job\.yaml:10:15: stages\.coco\.num_rois: fcos has no such setting"
    ):
        load_job(path, kinds=KINDS, base_dir=tmp_path)
