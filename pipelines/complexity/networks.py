"""Builds a published network without values (on torch's meta device) and runs an image through it
for the count."""

from __future__ import annotations

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

COCO_CLASSES, ADE20K_CLASSES = 80, 150
NOWHERE: dict[str, Any] = {"backbone": "pretrain.checkpoint", "data": "."}
"""What params demand and a network without weights and data does without."""


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
