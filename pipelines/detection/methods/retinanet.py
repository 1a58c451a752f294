"""RetinaNet (arXiv 1708.02002) as mmdet's model config."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.detection.methods import dense, parts
from pipelines.detection.params import DetectionParams
from pipelines.openmmlab.recipe import Config


def model(
    params: DetectionParams, *, backbone: Config, widths: Sequence[int], num_classes: int
) -> Config:
    return {
        "type": "RetinaNet",
        "data_preprocessor": parts.preprocessor(),
        "backbone": backbone,
        "neck": dense.pyramid(params, widths, extra_from="on_input"),
        "bbox_head": {
            "type": "RetinaHead",
            **dense.head(params, num_classes),
            "anchor_generator": {
                "type": "AnchorGenerator",
                "octave_base_scale": params.settings.anchor_scale,
                "scales_per_octave": 3,
                "ratios": [0.5, 1.0, 2.0],
                "strides": list(dense.STRIDES),
            },
            "bbox_coder": parts.box_coder(xy=1.0, wh=1.0),
            "loss_bbox": {"type": "L1Loss", "loss_weight": 1.0},
        },
        "train_cfg": dense.training(
            parts.iou_assigner(positive=0.5, negative=0.4, lowest=0.0),
            # The focal loss uses all anchors.
            sampler={"type": "PseudoSampler"},
        ),
        "test_cfg": dense.inference(),
    }
