"""The published rows for COCO and ADE20K, with the parameters and FLOPs of each network. Networks
are built without values, on torch's meta device."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from cat_model import CONFIGS
from pipelines.detection.complexity import count_detector
from pipelines.detection.model import make_model
from pipelines.detection.params import DetectionParams
from pipelines.detection.traits import MethodName
from pipelines.openmmlab.counting import NetworkSize
from pipelines.openmmlab.recipe import backbone as cat
from pipelines.segmentation.complexity import count_segmenter
from pipelines.segmentation.model import make_model as make_segmenter
from pipelines.segmentation.params import SegmentationParams

BACKBONES = ("cat_small", "cat_base")
COCO: tuple[tuple[MethodName, bool], ...] = (
    ("mask_rcnn", True),
    ("fcos", False),
    ("atss", False),
    ("retinanet", False),
    ("cascade_rcnn", False),
    ("cascade_rcnn", True),
)
"""Method, and whether it trains at multiple scales. All train for 12 epochs."""
ADE20K_SCHEDULES = ("80k", "160k")


@dataclass(frozen=True)
class Row:
    """A published row. `params_m` is in millions and `flops_g` in billions of multiply-accumulates,
    both rounded to 0.01."""

    backbone: str
    method: str
    multi_scale: bool
    schedule: str
    params_m: float
    flops_g: float


def make_rows() -> list[Row]:
    """All 16 rows, in the order of the paper's tables."""
    detector, segmenter = cache(detector_complexity), cache(segmenter_complexity)
    coco = [
        _row(backbone, method, "1x", detector(method, backbone), multi_scale=multi_scale)
        for method, multi_scale in COCO
        for backbone in BACKBONES
    ]
    ade20k = [
        _row(backbone, "semantic_fpn", schedule, segmenter(backbone), multi_scale=False)
        for schedule in ADE20K_SCHEDULES
        for backbone in BACKBONES
    ]
    return coco + ade20k


def _row(
    backbone: str, method: str, schedule: str, complexity: NetworkSize, *, multi_scale: bool
) -> Row:
    assert complexity.macs is not None, "the methods are ours"
    return Row(
        backbone=backbone,
        method=method,
        multi_scale=multi_scale,
        schedule=schedule,
        params_m=round(complexity.params / 1e6, 2),
        flops_g=round(complexity.macs / 1e9, 2),
    )


COCO_CLASSES, ADE20K_CLASSES = 80, 150


NOWHERE: dict[str, Any] = {"backbone": "pretrain.checkpoint", "data": "."}
"""Fields that the params require but that a network without weights and data does not use."""


def detector_complexity(method: MethodName, backbone: str) -> NetworkSize:
    params, cat_config = DetectionParams(method=method, **NOWHERE), CONFIGS[backbone]
    config = make_model(
        params,
        backbone=cat(cat_config.to_dict(), None),
        widths=cat_config.dims,
        num_classes=COCO_CLASSES,
    )
    return count_detector(config)


def segmenter_complexity(backbone: str) -> NetworkSize:
    params, cat_config = SegmentationParams(method="semantic_fpn", **NOWHERE), CONFIGS[backbone]
    config = make_segmenter(
        params,
        backbone=cat(cat_config.to_dict(), None),
        widths=cat_config.dims,
        num_classes=ADE20K_CLASSES,
        device="cpu",
    )
    return count_segmenter(config)
