"""Pieces of mmdet's model configs that all detectors are made of. What is not a param is as in
mmdet's 1x baselines."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.detection.params import DetectionParams
from pipelines.openmmlab.recipe import CAFFE_NORMALISATION, NORMALISATION, Config

NUM_LEVELS = 5
"""Levels of the feature pyramid."""


def preprocessor(*, has_masks: bool = False, is_caffe: bool = False) -> Config:
    """`is_caffe`: images as Caffe's ResNets want them, instead of as CAT's pretraining had them."""
    masks = {"pad_mask": True} if has_masks else {}
    normalisation = CAFFE_NORMALISATION if is_caffe else NORMALISATION
    return {"type": "DetDataPreprocessor", **normalisation, **masks, "pad_size_divisor": 32}


def pyramid(params: DetectionParams, widths: Sequence[int], **more: object) -> Config:
    """Five maps of `params.channels`; `widths` are the channels of the backbone's maps."""
    return {
        "type": "FPN",
        "in_channels": list(widths),
        "out_channels": params.channels,
        "num_outs": NUM_LEVELS,
        **more,
    }


def box_coder(*, xy: float, wh: float) -> Config:
    """`xy` and `wh`: standard deviations of the offsets of a box's centre and of the log ratios of
    its sides."""
    return {
        "type": "DeltaXYWHBBoxCoder",
        "target_means": [0.0, 0.0, 0.0, 0.0],
        "target_stds": [xy, xy, wh, wh],
    }


def iou_assigner(
    *, positive: float, negative: float, lowest: float, match_low_quality: bool = True
) -> Config:
    """Boxes learn an object from IoU `positive` on, and its best box from `lowest` on if a low
    quality matches.

    Those below `negative` learn the background.
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
    """What is left of the boxes of an image: at most 100."""
    return {
        "score_thr": 0.05,
        "nms": {"type": "nms", "iou_threshold": iou_threshold},
        "max_per_img": 100,
    }
