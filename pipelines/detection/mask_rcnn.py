"""Mask R-CNN (arXiv 1703.06870) with a feature pyramid on CAT, as mmdet's model config."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.detection.params import DetectionParams
from pipelines.openmmlab.recipe import NORMALISATION, Config

STRIDES = (4, 8, 16, 32, 64)


def model(params: DetectionParams, *, backbone: Config, widths: Sequence[int], num_classes: int) -> Config:
    """`widths`: channels of the backbone's four maps. Settings that are no params are mmdet's 1x baseline's."""
    return {
        "type": "MaskRCNN",
        "data_preprocessor": {
            "type": "DetDataPreprocessor",
            **NORMALISATION,
            "pad_mask": True,
            "pad_size_divisor": 32,
        },
        "backbone": backbone,
        "neck": {"type": "FPN", "in_channels": list(widths), "out_channels": params.channels, "num_outs": 5},
        "rpn_head": _rpn_head(params),
        "roi_head": {
            "type": "StandardRoIHead",
            "bbox_roi_extractor": _roi_extractor(params, size=7),
            "bbox_head": _box_head(params, num_classes),
            "mask_roi_extractor": _roi_extractor(params, size=14),
            "mask_head": {
                "type": "FCNMaskHead",
                "num_convs": 4,
                "in_channels": params.channels,
                "conv_out_channels": params.channels,
                "num_classes": num_classes,
                "loss_mask": {"type": "CrossEntropyLoss", "use_mask": True, "loss_weight": 1.0},
            },
        },
        "train_cfg": _train_cfg(params),
        "test_cfg": {
            "rpn": _proposals(nms_pre=1000),
            "rcnn": {
                "score_thr": 0.05,
                "nms": {"type": "nms", "iou_threshold": 0.5},
                "max_per_img": 100,
                "mask_thr_binary": 0.5,
            },
        },
    }


def _rpn_head(params: DetectionParams) -> Config:
    return {
        "type": "RPNHead",
        "in_channels": params.channels,
        "feat_channels": params.channels,
        "anchor_generator": {
            "type": "AnchorGenerator",
            "scales": [params.anchor_scale],
            "ratios": [0.5, 1.0, 2.0],
            "strides": list(STRIDES),
        },
        "bbox_coder": _box_coder([1.0, 1.0, 1.0, 1.0]),
        "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.0},
        "loss_bbox": {"type": "L1Loss", "loss_weight": 1.0},
    }


def _box_head(params: DetectionParams, num_classes: int) -> Config:
    return {
        "type": "Shared2FCBBoxHead",
        "in_channels": params.channels,
        "fc_out_channels": params.fc_channels,
        "roi_feat_size": 7,
        "num_classes": num_classes,
        "bbox_coder": _box_coder([0.1, 0.1, 0.2, 0.2]),
        "reg_class_agnostic": False,
        "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0},
        "loss_bbox": {"type": "L1Loss", "loss_weight": 1.0},
    }


def _roi_extractor(params: DetectionParams, *, size: int) -> Config:
    return {
        "type": "SingleRoIExtractor",
        "roi_layer": {"type": "RoIAlign", "output_size": size, "sampling_ratio": 0},
        "out_channels": params.channels,
        "featmap_strides": list(STRIDES[:4]),
    }


def _box_coder(stds: list[float]) -> Config:
    return {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0, 0.0, 0.0, 0.0], "target_stds": stds}


def _train_cfg(params: DetectionParams) -> Config:
    return {
        "rpn": {
            "assigner": _assigner(positive=0.7, negative=0.3, lowest=0.3),
            "sampler": _sampler(num=256, positive=0.5, with_truth=False),
            "allowed_border": -1,
            "pos_weight": -1,
            "debug": False,
        },
        "rpn_proposal": _proposals(nms_pre=2000),
        "rcnn": {
            "assigner": _assigner(positive=0.5, negative=0.5, lowest=0.5),
            "sampler": _sampler(num=params.num_rois, positive=0.25, with_truth=True),
            "mask_size": 28,
            "pos_weight": -1,
            "debug": False,
        },
    }


def _assigner(*, positive: float, negative: float, lowest: float) -> Config:
    return {
        "type": "MaxIoUAssigner",
        "pos_iou_thr": positive,
        "neg_iou_thr": negative,
        "min_pos_iou": lowest,
        "match_low_quality": True,
        "ignore_iof_thr": -1,
    }


def _sampler(*, num: int, positive: float, with_truth: bool) -> Config:
    return {
        "type": "RandomSampler",
        "num": num,
        "pos_fraction": positive,
        "neg_pos_ub": -1,
        "add_gt_as_proposals": with_truth,
    }


def _proposals(*, nms_pre: int) -> Config:
    return {
        "nms_pre": nms_pre,
        "max_per_img": 1000,
        "nms": {"type": "nms", "iou_threshold": 0.7},
        "min_bbox_size": 0,
    }
