"""FCOS (arXiv 1904.01355) as mmdet's model config, without anchors. Each level has a fixed range of
box sizes in pixels."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.detection.methods import dense, parts
from pipelines.detection.params import DetectionParams
from pipelines.openmmlab.recipe import Config


def model(
    params: DetectionParams, *, backbone: Config, widths: Sequence[int], num_classes: int
) -> Config:
    return {
        "type": "FCOS",
        "data_preprocessor": parts.preprocessor(is_caffe=params.fidelity == "reference"),
        "backbone": backbone,
        "neck": dense.pyramid(params, widths, extra_from="on_output", relu_before_extra_convs=True),
        "bbox_head": {
            "type": "FCOSHead",
            **dense.head(params, num_classes),
            **dense.CENTERNESS,
            "strides": list(dense.STRIDES),
            "norm_cfg": dense.group_norm(params),
            "loss_bbox": {"type": "IoULoss", "loss_weight": 1.0},
        },
        "test_cfg": dense.inference(),
    }
