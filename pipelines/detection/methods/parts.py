"""Pieces of mmdet's model configs that all detectors use. Settings that are not params are as in
mmdet's 1x baselines."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.detection.params import DetectionParams
from pipelines.openmmlab.recipe import CAFFE_NORMALISATION, NORMALISATION, Config

NUM_LEVELS = 5
"""Levels of the feature pyramid."""


def preprocessor(*, has_masks: bool = False, is_caffe: bool = False) -> Config:
    """The preprocessor of images. `is_caffe`: normalises for Caffe's ResNets, instead of as in
    CAT's pretraining."""
    masks = {"pad_mask": True} if has_masks else {}
    normalisation = CAFFE_NORMALISATION if is_caffe else NORMALISATION
    return {"type": "DetDataPreprocessor", **normalisation, **masks, "pad_size_divisor": 32}


def pyramid(params: DetectionParams, widths: Sequence[int], **more: object) -> Config:
    """The feature pyramid: five maps with `params.channels` channels. `widths` are the channels of
    the backbone's maps."""
    return {
        "type": "FPN",
        "in_channels": list(widths),
        "out_channels": params.channels,
        "num_outs": NUM_LEVELS,
        **more,
    }


def box_coder(*, xy: float, wh: float) -> Config:
    """The encoding of boxes. `xy` and `wh` are standard deviations of the offsets of a box's centre
    and of the log ratios of its sides."""
    return {
        "type": "DeltaXYWHBBoxCoder",
        "target_means": [0.0, 0.0, 0.0, 0.0],
        "target_stds": [xy, xy, wh, wh],
    }


def iou_assigner(
    *, positive: float, negative: float, lowest: float, match_low_quality: bool = True
) -> Config:
    """Assigns objects to boxes: a box learns an object from IoU `positive` on. With
    `match_low_quality`, the object's best box learns it from IoU `lowest` on.

    Boxes below `negative` learn the background.
    """
    return {
        "type": "MaxIoUAssigner",
        "pos_iou_thr": positive,
        "neg_iou_thr": negative,
        "min_pos_iou": lowest,
        "match_low_quality": match_low_quality,
        "ignore_iof_thr": -1,
    }


def detections(*, iou_threshold: float = 0.5) -> Config:
    """The selection of an image's final detections, at most 100."""
    return {
        "score_thr": 0.05,
        "nms": {"type": "nms", "iou_threshold": iou_threshold},
        "max_per_img": 100,
    }
