"""Cascade R-CNN (arXiv 1712.00726) with a feature pyramid, boxes only, as mmdet's model config."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.detection.methods import parts, two_stage
from pipelines.detection.params import DetectionParams
from pipelines.openmmlab.recipe import Config


@dataclass(frozen=True)
class CascadeStage:
    """A box head of the cascade. Each head starts from the boxes of the previous one and is
    stricter."""

    iou: float
    """IoU from which a box counts as an object."""
    xy: float
    wh: float
    """`xy` and `wh`: standard deviations of the box offsets that the head learns."""
    loss_weight: float


STAGES = (
    CascadeStage(iou=0.5, xy=0.1, wh=0.2, loss_weight=1.0),
    CascadeStage(iou=0.6, xy=0.05, wh=0.1, loss_weight=0.5),
    CascadeStage(iou=0.7, xy=0.033, wh=0.067, loss_weight=0.25),
)


def model(
    params: DetectionParams, *, backbone: Config, widths: Sequence[int], num_classes: int
) -> Config:
    return {
        "type": "CascadeRCNN",
        "data_preprocessor": parts.preprocessor(),
        "backbone": backbone,
        "neck": parts.pyramid(params, widths),
        "rpn_head": two_stage.rpn_head(params, box_loss=_smooth_l1(beta=1 / 9)),
        "roi_head": {
            "type": "CascadeRoIHead",
            "num_stages": len(STAGES),
            "stage_loss_weights": [stage.loss_weight for stage in STAGES],
            "bbox_roi_extractor": two_stage.roi_extractor(params, size=two_stage.BOX_SIZE),
            "bbox_head": [_box_head(params, num_classes, stage) for stage in STAGES],
        },
        "train_cfg": {
            "rpn": two_stage.rpn_training(allowed_border=0),
            "rpn_proposal": two_stage.proposals(nms_pre=2000, max_per_img=2000),
            "rcnn": [
                two_stage.roi_training(params, iou=stage.iou, match_low_quality=False)
                for stage in STAGES
            ],
        },
        "test_cfg": {
            "rpn": two_stage.proposals(nms_pre=1000, max_per_img=1000),
            "rcnn": parts.detections(),
        },
    }


def _box_head(params: DetectionParams, num_classes: int, stage: CascadeStage) -> Config:
    return two_stage.box_head(
        params,
        num_classes,
        coder=parts.box_coder(xy=stage.xy, wh=stage.wh),
        is_class_agnostic=True,
        box_loss=_smooth_l1(beta=1.0),
    )


def _smooth_l1(*, beta: float) -> Config:
    return {"type": "SmoothL1Loss", "beta": beta, "loss_weight": 1.0}
