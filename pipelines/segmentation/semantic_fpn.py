"""Semantic FPN (Panoptic FPN's semantic branch, arXiv 1901.02446) on CAT, as mmseg's model config."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.openmmlab.recipe import NORMALISATION, Config
from pipelines.segmentation.params import SegmentationParams


def model(
    params: SegmentationParams, *, backbone: Config, widths: Sequence[int], num_classes: int, device: str
) -> Config:
    """`widths`: channels of the backbone's four maps. Settings that are no params are mmseg's baseline's."""
    crop = (params.crop_size, params.crop_size)
    return {
        "type": "EncoderDecoder",
        "data_preprocessor": {
            "type": "SegDataPreProcessor",
            **NORMALISATION,
            "size": crop,
            "pad_val": 0,
            "seg_pad_val": 255,
        },
        "backbone": backbone,
        "neck": {"type": "FPN", "in_channels": list(widths), "out_channels": params.channels, "num_outs": 4},
        "decode_head": {
            "type": "FPNHead",
            "in_channels": [params.channels] * 4,
            "in_index": [0, 1, 2, 3],
            "feature_strides": [4, 8, 16, 32],
            "channels": params.head_channels,
            "dropout_ratio": 0.1,
            "num_classes": num_classes,
            # Statistics over all workers; torch has it for GPUs only.
            "norm_cfg": {"type": "BN" if device == "cpu" else "SyncBN", "requires_grad": True},
            "align_corners": False,
            "loss_decode": {
                "type": "CrossEntropyLoss",
                "use_sigmoid": False,
                "avg_non_ignore": False,
                "loss_weight": 1.0,
            },
        },
        "train_cfg": {},
        "test_cfg": {"mode": "whole"},
    }
