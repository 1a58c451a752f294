"""ATSS (arXiv 1912.02424) as mmdet's model config: one square anchor per position, and positives
chosen by IoU statistics."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.detection.methods import dense, parts
from pipelines.detection.params import DetectionParams
from pipelines.openmmlab.recipe import Config


def model(
    params: DetectionParams, *, backbone: Config, widths: Sequence[int], num_classes: int
) -> Config:
    return {
        "type": "ATSS",
        "data_preprocessor": parts.preprocessor(),
        "backbone": backbone,
        "neck": dense.pyramid(params, widths, extra_from="on_output"),
        "bbox_head": {
            "type": "ATSSHead",
            **dense.head(params, num_classes),
            **dense.CENTERNESS,
            "anchor_generator": {
                "type": "AnchorGenerator",
                "ratios": [1.0],
                "octave_base_scale": params.settings.anchor_scale,
                "scales_per_octave": 1,
                "strides": list(dense.STRIDES),
            },
            "norm_cfg": dense.group_norm(params),
            "bbox_coder": parts.box_coder(xy=0.1, wh=0.2),
            "loss_bbox": {"type": "GIoULoss", "loss_weight": 2.0},
        },
        "train_cfg": dense.training({"type": "ATSSAssigner", "topk": 9}),
        "test_cfg": dense.inference(iou_threshold=0.6),
    }
