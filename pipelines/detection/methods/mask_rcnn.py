"""Mask R-CNN (arXiv 1703.06870) with a feature pyramid, as mmdet's model config."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.detection.methods import parts, two_stage
from pipelines.detection.params import DetectionParams
from pipelines.openmmlab.recipe import Config

BOX_LOSS: Config = {"type": "L1Loss", "loss_weight": 1.0}


def model(
    params: DetectionParams, *, backbone: Config, widths: Sequence[int], num_classes: int
) -> Config:
    roi_training = two_stage.roi_training(params, iou=0.5, match_low_quality=True)
    return {
        "type": "MaskRCNN",
        "data_preprocessor": parts.preprocessor(has_masks=True),
        "backbone": backbone,
        "neck": parts.pyramid(params, widths),
        "rpn_head": two_stage.rpn_head(params, box_loss=BOX_LOSS),
        "roi_head": {
            "type": "StandardRoIHead",
            "bbox_roi_extractor": two_stage.roi_extractor(params, size=two_stage.BOX_SIZE),
            "bbox_head": two_stage.box_head(
                params,
                num_classes,
                coder=parts.box_coder(xy=0.1, wh=0.2),
                is_class_agnostic=False,
                box_loss=BOX_LOSS,
            ),
            "mask_roi_extractor": two_stage.roi_extractor(params, size=two_stage.MASK_SIZE),
            "mask_head": _mask_head(params, num_classes),
        },
        "train_cfg": {
            "rpn": two_stage.rpn_training(allowed_border=-1),
            "rpn_proposal": two_stage.proposals(nms_pre=2000, max_per_img=1000),
            "rcnn": {**roi_training, "mask_size": 2 * two_stage.MASK_SIZE},
        },
        "test_cfg": {
            "rpn": two_stage.proposals(nms_pre=1000, max_per_img=1000),
            "rcnn": {**parts.detections(), "mask_thr_binary": 0.5},
        },
    }


def _mask_head(params: DetectionParams, num_classes: int) -> Config:
    return {
        "type": "FCNMaskHead",
        "num_convs": 4,
        "in_channels": params.channels,
        "conv_out_channels": params.channels,
        "num_classes": num_classes,
        "loss_mask": {"type": "CrossEntropyLoss", "use_mask": True, "loss_weight": 1.0},
    }
