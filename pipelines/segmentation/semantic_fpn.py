"""Semantic FPN (Panoptic FPN's semantic branch, arXiv 1901.02446) on CAT, as mmseg's model
config."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.openmmlab.recipe import Config
from pipelines.segmentation import parts
from pipelines.segmentation.params import SegmentationParams


def model(
    params: SegmentationParams,
    *,
    backbone: Config,
    widths: Sequence[int],
    num_classes: int,
    device: str,
) -> Config:
    """The model config. `widths`: channels of the backbone's four maps. Settings that are not
    params are as in mmseg's baseline."""
    pyramid, head = params.widths.pyramid, params.widths.head
    return {
        "type": "EncoderDecoder",
        "data_preprocessor": parts.preprocessor(params),
        "backbone": backbone,
        "neck": {
            "type": "FPN",
            "in_channels": list(widths),
            "out_channels": pyramid,
            "num_outs": 4,
        },
        "decode_head": {
            "type": "FPNHead",
            "in_channels": [pyramid] * 4,
            "in_index": [0, 1, 2, 3],
            "feature_strides": [4, 8, 16, 32],
            "channels": head,
            "dropout_ratio": 0.1,
            "num_classes": num_classes,
            "norm_cfg": parts.batch_norm(device),
            "align_corners": False,
            "loss_decode": parts.cross_entropy(),
        },
        "train_cfg": {},
        "test_cfg": {"mode": "whole"},
    }
