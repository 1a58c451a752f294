"""Counts the parameters and multiply-accumulates of a detector, without weights and data."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import pipelines.openmmlab.backbone  # noqa: F401 - registers CAT
from pipelines.detection.methods import two_stage
from pipelines.openmmlab.counting import (
    NetworkSize,
    count_params,
    counting,
    network_on_meta,
    run_backbone,
)
from pipelines.openmmlab.recipe import Config
from pipelines.openmmlab.record import Counter

IMAGE_SIZE = 1280, 800
"""Height and width in pixels for the published FLOPs: the default of the tool that counted them."""
NUM_BOX_ROIS, NUM_MASK_ROIS = 1000, 100
"""Regions that the box heads and the mask head process in the count."""


def count_detector(config: Config) -> NetworkSize:
    """The size of a model of one of our methods."""
    with network_on_meta("mmdet", config) as network, counting(network) as count:
        maps = run_backbone(network, IMAGE_SIZE)
        if hasattr(network, "roi_head"):
            network.rpn_head(maps)
            _run_roi_head(network.roi_head, channels=config["neck"]["out_channels"])
        else:
            network.bbox_head(maps)
    return NetworkSize(count_params(network), count.macs)


def _run_roi_head(roi_head: Any, *, channels: int) -> None:
    """Runs the heads on maps of regions, with the shapes that RoIAlign returns. Each box head of a
    cascade processes all regions."""
    box_heads = (
        roi_head.bbox_head
        if isinstance(roi_head.bbox_head, nn.ModuleList)
        else [roi_head.bbox_head]
    )
    for box_head in box_heads:
        box_head(torch.empty(NUM_BOX_ROIS, channels, two_stage.BOX_SIZE, two_stage.BOX_SIZE))
    if roi_head.with_mask:
        roi_head.mask_head(
            torch.empty(NUM_MASK_ROIS, channels, two_stage.MASK_SIZE, two_stage.MASK_SIZE)
        )


COUNTER = Counter(IMAGE_SIZE, count_detector)
