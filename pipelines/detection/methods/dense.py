"""Config pieces of the one-stage detectors, which predict boxes at every position of the pyramid's
maps."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.detection.methods import parts
from pipelines.detection.params import DetectionParams
from pipelines.detection.traits import GROUP
from pipelines.openmmlab.recipe import Config

STRIDES = (8, 16, 32, 64, 128)

CENTERNESS: Config = {
    "loss_centerness": {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.0}
}
"""The loss for centerness, which is how near a position is to the centre of its object."""


def pyramid(
    params: DetectionParams, widths: Sequence[int], *, extra_from: str, **more: object
) -> Config:
    """The feature pyramid, from stride 8 on. The two coarsest maps are convolved from the last map
    of the backbone or of the pyramid (`extra_from`)."""
    return parts.pyramid(params, widths, start_level=1, add_extra_convs=extra_from, **more)


def head(params: DetectionParams, num_classes: int) -> Config:
    """The head: two towers of four convolutions, with the focal loss for classes."""
    return {
        "num_classes": num_classes,
        "in_channels": params.channels,
        "stacked_convs": 4,
        "feat_channels": params.channels,
        "loss_cls": {
            "type": "FocalLoss",
            "use_sigmoid": True,
            "gamma": 2.0,
            "alpha": 0.25,
            "loss_weight": 1.0,
        },
    }


def group_norm(params: DetectionParams) -> Config:
    return {"type": "GN", "num_groups": params.channels // GROUP, "requires_grad": True}


def training(assigner: Config, **more: object) -> Config:
    return {"assigner": assigner, **more, "allowed_border": -1, "pos_weight": -1, "debug": False}


def inference(*, iou_threshold: float = 0.5) -> Config:
    return {"nms_pre": 1000, "min_bbox_size": 0, **parts.detections(iou_threshold=iou_threshold)}
