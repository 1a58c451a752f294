"""Config pieces of the two-stage detectors: one head proposes regions (RoIs), and other heads
process each region."""

from __future__ import annotations

from pipelines.detection.methods import parts
from pipelines.detection.params import DetectionParams
from pipelines.openmmlab.recipe import Config

STRIDES = (4, 8, 16, 32, 64)
BOX_SIZE, MASK_SIZE = 7, 14
"""Sides of a RoI's map for the box head and for the mask head."""


def rpn_head(params: DetectionParams, *, box_loss: Config) -> Config:
    return {
        "type": "RPNHead",
        "in_channels": params.channels,
        "feat_channels": params.channels,
        "anchor_generator": {
            "type": "AnchorGenerator",
            "scales": [params.settings.anchor_scale],
            "ratios": [0.5, 1.0, 2.0],
            "strides": list(STRIDES),
        },
        "bbox_coder": parts.box_coder(xy=1.0, wh=1.0),
        "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.0},
        "loss_bbox": box_loss,
    }


def box_head(
    params: DetectionParams,
    num_classes: int,
    *,
    coder: Config,
    is_class_agnostic: bool,
    box_loss: Config,
) -> Config:
    return {
        "type": "Shared2FCBBoxHead",
        "in_channels": params.channels,
        "fc_out_channels": params.settings.fc_channels,
        "roi_feat_size": BOX_SIZE,
        "num_classes": num_classes,
        "bbox_coder": coder,
        "reg_class_agnostic": is_class_agnostic,
        "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0},
        "loss_bbox": box_loss,
    }


def roi_extractor(params: DetectionParams, *, size: int) -> Config:
    return {
        "type": "SingleRoIExtractor",
        "roi_layer": {"type": "RoIAlign", "output_size": size, "sampling_ratio": 0},
        "out_channels": params.channels,
        "featmap_strides": list(STRIDES[:4]),
    }


def rpn_training(*, allowed_border: int) -> Config:
    assigner = parts.iou_assigner(positive=0.7, negative=0.3, lowest=0.3)
    sampler = _sampler(num=256, positive=0.5, with_truth=False)
    return {**_training(assigner, sampler), "allowed_border": allowed_border}


def roi_training(params: DetectionParams, *, iou: float, match_low_quality: bool) -> Config:
    """The training of a head on RoIs. RoIs with an IoU from `iou` on count as objects."""
    assigner = parts.iou_assigner(
        positive=iou, negative=iou, lowest=iou, match_low_quality=match_low_quality
    )
    assert params.settings.num_rois is not None, f"{params.method} has RoIs"
    return _training(
        assigner, _sampler(num=params.settings.num_rois, positive=0.25, with_truth=True)
    )


def proposals(*, nms_pre: int, max_per_img: int) -> Config:
    return {
        "nms_pre": nms_pre,
        "max_per_img": max_per_img,
        "nms": {"type": "nms", "iou_threshold": 0.7},
        "min_bbox_size": 0,
    }


def _training(assigner: Config, sampler: Config) -> Config:
    return {"assigner": assigner, "sampler": sampler, "pos_weight": -1, "debug": False}


def _sampler(*, num: int, positive: float, with_truth: bool) -> Config:
    return {
        "type": "RandomSampler",
        "num": num,
        "pos_fraction": positive,
        "neg_pos_ub": -1,
        "add_gt_as_proposals": with_truth,
    }
