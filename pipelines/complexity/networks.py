"""Builds a published network without values (on torch's meta device) and runs an image through it for the count."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import pipelines.openmmlab.backbone  # noqa: F401 - registers CAT
from cat_model import CONFIGS
from pipelines.detection.methods import two_stage
from pipelines.detection.model import make_model
from pipelines.detection.params import DetectionParams
from pipelines.detection.traits import MethodName
from pipelines.openmmlab.building import build_network
from pipelines.openmmlab.counting import counting
from pipelines.openmmlab.library import MODELS, DefaultScope, Scope, load_library
from pipelines.openmmlab.library import Config as MmengineConfig
from pipelines.openmmlab.recipe import Config
from pipelines.openmmlab.recipe import backbone as cat
from pipelines.segmentation.model import make_model as make_segmenter
from pipelines.segmentation.params import SegmentationParams

COCO_CLASSES, ADE20K_CLASSES = 80, 150
DETECTION_SIZE, SEGMENTATION_SIZE = (1280, 800), (1024, 1024)
"""Height and width in pixels for which the published FLOPs hold: the defaults of the tool that counted them."""
NUM_BOX_ROIS, NUM_MASK_ROIS = 1000, 100
"""Regions that the box heads and the mask head look at in the count."""
NOWHERE: dict[str, Any] = {"backbone": "pretrain.checkpoint", "data": "."}
"""What params demand and a network without weights and data does without."""


@dataclass(frozen=True)
class NetworkSize:
    params: int
    macs: int | None
    """None where nobody knows how to count them."""


def detector_complexity(method: MethodName, backbone: str) -> NetworkSize:
    params, cat_config = DetectionParams(method=method, **NOWHERE), CONFIGS[backbone]
    config = make_model(
        params, backbone=cat(cat_config.to_dict(), None), widths=cat_config.dims, num_classes=COCO_CLASSES
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


def count_detector(config: Config) -> NetworkSize:
    """Of the model of one of our methods."""
    with _built("mmdet", config) as network, counting(network) as count:
        maps = _pyramid(network, DETECTION_SIZE)
        if hasattr(network, "roi_head"):
            network.rpn_head(maps)
            _run_roi_head(network.roi_head, channels=config["neck"]["out_channels"])
        else:
            network.bbox_head(maps)
    return NetworkSize(count_params(network), count.macs)


def count_segmenter(config: Config) -> NetworkSize:
    """Of the model of one of our methods; an auxiliary head, which inference leaves out, has parameters alone."""
    with _built("mmseg", config) as network, counting(network) as count:
        network.decode_head(_pyramid(network, SEGMENTATION_SIZE))
    return NetworkSize(count_params(network), count.macs)


def count_built(scope: Scope, config: Config) -> int:
    """The parameters of any model."""
    return count_params(build_network(scope, config))


def count_params(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@contextmanager
def _built(scope: Scope, config: Config) -> Iterator[Any]:
    """The network, for validation; tensors that are made in this context have a shape and no values."""
    load_library(scope)
    with DefaultScope.overwrite_default_scope(scope), torch.device("meta"), torch.no_grad():
        with warnings.catch_warnings(action="ignore"):
            network = MODELS.build(MmengineConfig(config)).eval()
        yield network


def _pyramid(network: Any, size: tuple[int, int]) -> tuple[Tensor, ...]:
    maps: tuple[Tensor, ...] = network.backbone(torch.empty(1, 3, *size))
    return network.neck(maps) if network.with_neck else maps


def _run_roi_head(roi_head: Any, *, channels: int) -> None:
    """Run the heads on maps of regions as they come from RoIAlign, each box head of a cascade on all."""
    box_heads = roi_head.bbox_head if isinstance(roi_head.bbox_head, nn.ModuleList) else [roi_head.bbox_head]
    for box_head in box_heads:
        box_head(torch.empty(NUM_BOX_ROIS, channels, two_stage.BOX_SIZE, two_stage.BOX_SIZE))
    if roi_head.with_mask:
        roi_head.mask_head(torch.empty(NUM_MASK_ROIS, channels, two_stage.MASK_SIZE, two_stage.MASK_SIZE))
