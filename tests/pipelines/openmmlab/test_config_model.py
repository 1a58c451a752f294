"""Models of config files, from mmdet, mmseg and these tests, are adapted to CAT, trained and
evaluated."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from cat_model import CONFIGS, CatConfig
from orchestrator.contract import Params, StageContext
from orchestrator.errors import JobError
from pipelines.detection.evaluate import run as evaluate_detector
from pipelines.detection.kind import KIND
from pipelines.detection.params import DetectionParams
from pipelines.detection.train import run as train_detector
from pipelines.openmmlab.backbone_init import BackboneInit
from pipelines.openmmlab.building import build_network
from pipelines.openmmlab.config_model import adapted, load_model, make_model
from pipelines.openmmlab.library import MODELS, Scope
from pipelines.openmmlab.params import SIZES
from pipelines.segmentation.params import SegmentationParams
from pipelines.segmentation.train import run as train_segmenter
from tests.pipelines.openmmlab.harness import (
    PX,
    Recorder,
    evaluation_params,
    make_context,
    on_val,
    save_toy_checkpoint,
    write_ade20k,
    write_coco,
)

WIDTHS = [96, 192, 384, 768]
SMALL = BackboneInit(CONFIGS["cat_small"])
TOY = BackboneInit(
    CatConfig(img_size=56, embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8))
)


def _adapted(
    config: str, scope: Scope, work_dir: Path, *, start: BackboneInit = SMALL
) -> dict[str, Any]:
    return adapted(load_model(config, scope, work_dir), start, num_classes=5, device="cpu")


def test_mmdet_detector_gets_cat_and_the_classes_of_the_data(tmp_path: Path) -> None:
    model = _adapted("mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py", "mmdet", tmp_path)
    assert model["backbone"] == SMALL.backbone
    assert model["neck"]["in_channels"] == WIDTHS
    assert model["roi_head"]["bbox_head"]["num_classes"] == 5
    assert "num_classes" not in model["rpn_head"]


def test_caffe_normalisation_is_replaced_by_the_pretrainings(
    tmp_path: Path,
) -> None:
    model = _adapted("mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py", "mmdet", tmp_path)
    assert model["data_preprocessor"]["bgr_to_rgb"] is True
    assert model["data_preprocessor"]["std"][0] == 58.395
    assert model["data_preprocessor"]["pad_size_divisor"] == 32


def test_neck_gets_only_the_maps_that_it_takes(tmp_path: Path) -> None:
    model = _adapted("mmdet::yolof/yolof_r50-c5_8xb8-1x_coco.py", "mmdet", tmp_path)
    assert model["backbone"]["out_indices"] == [3]
    assert model["neck"]["in_channels"] == 768


def test_heads_of_mmseg_segmenter_without_neck_are_adapted(tmp_path: Path) -> None:
    model = _adapted("mmseg::upernet/upernet_r50_4xb4-160k_ade20k-512x512.py", "mmseg", tmp_path)
    assert model["decode_head"]["in_channels"] == WIDTHS
    assert model["auxiliary_head"]["in_channels"] == 384
    assert {model[head]["num_classes"] for head in ("decode_head", "auxiliary_head")} == {5}
    assert {model[head]["norm_cfg"]["type"] for head in ("decode_head", "auxiliary_head")} == {"BN"}
    assert "pretrained" not in model


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("model = dict(backbone=dict(), data_preprocessor=dict())", r"model\.neck: is missing"),
        ("model = dict(neck=dict(in_channels=[1]))", r"model\.backbone: is missing"),
        (
            (
                "model = dict(backbone=dict(out_indices=(2, 3, 4)), data_preprocessor={}, "
                "neck=dict(in_channels=[1] * 3))"
            ),
            r"model\.neck\.in_channels: has 3 entries, so it is unclear which of CAT's 4 maps",
        ),
        (
            (
                "model = dict(backbone={}, data_preprocessor={}, neck=dict(in_channels=[1]), "
                "h=dict(num_stuff_classes=3))"
            ),
            r"num_stuff_classes: panoptic heads",
        ),
        (
            (
                "model = dict(backbone={}, data_preprocessor={}, init_cfg=dict(type='Pretrained', "
                "checkpoint='x'))"
            ),
            r"init_cfg .*a head cannot load weights from outside",
        ),
        (
            (
                "model = dict(backbone={}, data_preprocessor={}, "
                "neck=dict(b=[dict(pretrained='torchvision://resnet50')]))"
            ),
            r"pretrained 'torchvision://resnet50': a head cannot load weights from outside",
        ),
        (
            "model = dict(backbone={}, data_preprocessor={}, teacher_ckpt='/teacher.pth')",
            r"teacher_ckpt '/teacher\.pth': a head cannot load weights from outside",
        ),
        (
            "model = dict(backbone={}, data_preprocessor={}, a={1, 2})",
            r"model: contains values that are not JSON",
        ),
    ],
)
def test_model_that_cannot_be_adapted_names_the_field(
    tmp_path: Path, text: str, fault: str
) -> None:
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(ValueError, match=fault):
        _adapted(str(tmp_path / "own.py"), "mmdet", tmp_path)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("model = dict(a=nowhere)", "NameError: name 'nowhere' is not defined"),
        ("model = {}\nassert len('a') > 1, 'too short'", "AssertionError: too short"),
        ("model = {}\nraise SystemExit(3)", "SystemExit: 3"),
        ("model = {}\nraise ImportError('no mmpretrain')", "ImportError: no mmpretrain"),
        ("model = {}\ndel model", "KeyError: model"),
        ("model = 3", "AttributeError: 'int' object"),
    ],
)
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_config_that_fails_when_executed_is_named_with_its_path(
    tmp_path: Path, text: str, fault: str
) -> None:
    (tmp_path / "own.py").write_text(f"{text}\n")
    with pytest.raises(JobError, match=rf"config: .*own\.py: fails when executed: {fault}"):
        load_model(str(tmp_path / "own.py"), "mmdet", tmp_path)
    gc.collect()  # mmengine leaves the executed file open


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        (
            "type='Nothing', bbox_head={}",
            r"its model cannot be built: KeyError: Nothing is not in the .*registry",
        ),
        (
            "bbox_head=dict(type='Nothing', _delete_=True)",
            r"its model cannot be built: KeyError: .*Nothing is not in",
        ),
        (
            "bbox_head=dict(size=3)",
            r"its model cannot be built: TypeError: .*unexpected keyword argument 'size'",
        ),
        (
            "backbone=dict(out_indices=(0, 1, 2, 5)), neck=dict(in_channels=[8] * 3)",
            r"model\.neck\.in_channels: has 3",
        ),
        ("neck=[3]", r"cannot be adapted to the stage: TypeError: "),
    ],
)
def test_wrong_model_fails_on_every_rank_before_training(
    tmp_path: Path, fields: str, fault: str
) -> None:
    text = f"_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'\nmodel = dict({fields})\n"
    (tmp_path / "own.py").write_text(text)
    params = DetectionParams(config=str(tmp_path / "own.py"), data="/coco", backbone="p.checkpoint")
    context = make_context(Recorder(tmp_path), params, tmp_path, rank=1)
    with pytest.raises(JobError, match=rf"config: .*own\.py: {fault}"):
        make_model(context, TOY, scope="mmdet", num_classes=5)


def test_model_that_reads_values_is_built_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Valued(nn.Linear):
        def __init__(self, backbone: object) -> None:
            super().__init__(2, int(torch.ones(1).item()))

    monkeypatch.setitem(MODELS.module_dict, "Valued", Valued)
    assert build_network("mmdet", {"type": "Valued", "backbone": {}}).weight.shape == (1, 2)


@pytest.mark.parametrize("field", ["frozen_stages", "norm_eval"])
def test_frozen_random_weights_of_kept_backbone_are_refused(tmp_path: Path, field: str) -> None:
    own = (
        "_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'\nmodel = "
        f"dict(backbone=dict({field}=1))\n"
    )
    unfrozen = own.replace(f"{field}=1", "frozen_stages=-1, norm_eval=False")
    (tmp_path / "own.py").write_text(
        own if field == "frozen_stages" else unfrozen.replace("False", "True")
    )
    with pytest.raises(
        ValueError, match=rf"model\.backbone\.{field}: .* would freeze random weights"
    ):
        _adapted(str(tmp_path / "own.py"), "mmdet", tmp_path, start=BackboneInit(None))
    (tmp_path / "own.py").write_text(unfrozen)
    backbone = _adapted(str(tmp_path / "own.py"), "mmdet", tmp_path, start=BackboneInit(None))[
        "backbone"
    ]
    assert backbone["type"] == "ResNet"
    assert "init_cfg" not in backbone


PRETRAINED = {"type": "Pretrained", "checkpoint": "torchvision://resnet50"}
PLAIN = {"type": "Kaiming", "layer": "Conv2d"}


@pytest.mark.parametrize(
    ("fields", "left"),
    [
        ({"pretrained": "torchvision://resnet50"}, {}),
        ({"pretrained": True}, {}),
        ({"init_cfg": PRETRAINED}, {}),
        ({"init_cfg": {**PRETRAINED, "type": "mmengine.Pretrained"}}, {}),
        ({"init_cfg": {**PRETRAINED, "type": "Pretrained_Part"}}, {}),
        ({"init_cfg": {"checkpoint": "pvt.pth"}}, {}),
        ({"init_cfg": [PRETRAINED]}, {}),
        ({"init_cfg": [PLAIN, PRETRAINED]}, {"init_cfg": [PLAIN]}),
        ({"init_cfg": {**PLAIN, "override": {"name": "stem", **PRETRAINED}}}, {"init_cfg": PLAIN}),
        ({"stem": {"pretrained": "x", "out_indices": (1, 2)}}, {"stem": {"out_indices": (1, 2)}}),
        ({"stems": [{"init_cfg": PRETRAINED, "depth": 18}]}, {"stems": [{"depth": 18}]}),
    ],
)
def test_kept_backbone_loads_no_weights(fields: dict[str, Any], left: dict[str, Any]) -> None:
    model = {"backbone": {"type": "ResNet", **fields}, "data_preprocessor": {}}
    assert adapted(model, BackboneInit(None), num_classes=5, device="cpu")["backbone"] == {
        "type": "ResNet",
        **left,
    }


@pytest.mark.parametrize("value", ["https://place/a", "/weights/a.pth", "open-mmlab://resnet50"])
def test_kept_backbone_that_loads_weights_itself_is_refused(value: str) -> None:
    model = {"backbone": {"type": "Own", "stem": {"teacher": value}}, "data_preprocessor": {}}
    with pytest.raises(
        ValueError, match=rf"model\.backbone: teacher '{value}': keep_backbone starts from random"
    ):
        adapted(model, BackboneInit(None), num_classes=5, device="cpu")


def _context(root: Path, params: Params) -> StageContext:
    return make_context(Recorder(root), params, save_toy_checkpoint(root / "pretrained"))


DETECTOR = """
_base_ = ['mmdet::retinanet/retinanet_r50_fpn_1x_coco.py']
width = 8
model = dict(
    neck=dict(out_channels=width, num_outs=5),
    bbox_head=dict(in_channels=width, feat_channels=width,
      stacked_convs={{_base_.model.bbox_head.stacked_convs}}),
)
"""


def test_detector_of_a_config_trains_and_evaluates_equally(tmp_path: Path) -> None:
    data = write_coco(tmp_path / "coco", num_train=4, num_val=2)
    (tmp_path / "own.py").write_text(DETECTOR)
    common: dict[str, Any] = {
        "config": str(tmp_path / "own.py"),
        "data": str(data),
        "loader_workers": 0,
    }
    small: dict[str, Any] = {"epochs": 1, "batch_size": 4, "img_scale": (PX, PX), "warmup_iters": 0}
    params = DetectionParams(**common, **small, backbone="p.checkpoint")
    context = _context(tmp_path / "train", params)
    trained = train_detector(context)
    document = json.loads((trained.outputs["checkpoint"] / "config.json").read_text())
    assert document["method"] == "config"
    assert document["model"]["bbox_head"]["num_classes"] == 2
    assert document["model"]["backbone"]["config"]["embed_dim"] == 16
    again = _context(tmp_path / "evaluate", evaluation_params(KIND, params))
    again.inputs["checkpoint"] = trained.outputs["checkpoint"]  # type: ignore[index]  # a dict, as the harness makes it
    measured = {metric.name: metric.value for metric in evaluate_detector(again).metrics}
    of_training = {
        metric.name: metric.value for metric in on_val(trained) if metric.name not in SIZES
    }
    assert {name: measured[name] for name in of_training} == of_training
    with pytest.raises(JobError, match=r"masks: the model of .* has no mask head"):
        train_detector(_context(tmp_path / "masks", params.model_copy(update={"masks": True})))


SEGMENTER = """
_base_ = 'mmseg::_base_/models/fcn_unet_s5-d16.py'
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    backbone=dict(base_channels=4),
    decode_head=dict(in_channels=4, channels=4),
    auxiliary_head=dict(in_channels=8, channels=4),
    test_cfg=dict(_delete_=True, mode='whole'),
)
"""


def test_segmenter_keeps_its_own_backbone_from_scratch(tmp_path: Path) -> None:
    data = write_ade20k(tmp_path / "ade20k", num_train=4, num_val=2)
    (tmp_path / "own.py").write_text(SEGMENTER)
    common: dict[str, Any] = {
        "config": str(tmp_path / "own.py"),
        "data": str(data),
        "loader_workers": 0,
    }
    small: dict[str, Any] = {
        "max_iters": 1,
        "warmup_iters": 0,
        "batch_size": 4,
        "img_scale": (64, 64),
        "crop_size": 64,
    }
    params = SegmentationParams(**common, **small, keep_backbone=True, init="scratch")
    context = _context(tmp_path, params)
    trained = train_segmenter(context)
    tensors = load_file(trained.outputs["checkpoint"] / "model.safetensors")
    assert tensors["decode_head.conv_seg.weight"].shape == (3, 4, 1, 1)
    assert any(name.startswith("backbone.encoder") for name in tensors)


ONE_CHANNEL = f"""{SEGMENTER}
model['auxiliary_head'].update(out_channels=2)
model['decode_head'].update(
    out_channels=1, threshold=0.5, loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True)
)
"""


def test_tta_of_a_head_with_one_channel_is_refused(tmp_path: Path) -> None:
    data = write_ade20k(tmp_path / "ade20k", num_train=4, num_val=2)
    for path in (data / "annotations").glob("*/*.png"):
        Image.fromarray(np.asarray(Image.open(path)) % 3).save(path)  # background is unlabeled
    (data / "classes.json").write_text('["red", "blue"]')
    (tmp_path / "own.py").write_text(ONE_CHANNEL)
    common: dict[str, Any] = {"config": str(tmp_path / "own.py"), "data": str(data)}
    own: dict[str, Any] = {"keep_backbone": True, "init": "scratch", "loader_workers": 0}
    small: dict[str, Any] = {"max_iters": 1, "warmup_iters": 0, "img_scale": (64, 64)}
    params = SegmentationParams(**common, **own, **small, batch_size=4, crop_size=64, tta=True)
    with pytest.raises(
        JobError, match=r"^tta: needs one channel for each class, .* one channel .*; set tta: false"
    ):
        train_segmenter(_context(tmp_path, params))
