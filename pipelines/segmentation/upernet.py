"""UperNet (arXiv 1807.10221) on CAT with an auxiliary FCN head on stage 3, as in mmseg's config for
Swin."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.openmmlab.recipe import Config
from pipelines.segmentation import parts
from pipelines.segmentation.params import SegmentationParams

AUXILIARY_MAP = 2
"""Index of the map from which the auxiliary head learns."""


def model(
    params: SegmentationParams,
    *,
    backbone: Config,
    widths: Sequence[int],
    num_classes: int,
    device: str,
) -> Config:
    """The model config. `widths`: channels of the backbone's four maps. Settings that are not
    params are as in mmseg's config for Swin."""
    shared = {
        "dropout_ratio": 0.1,
        "num_classes": num_classes,
        "norm_cfg": parts.batch_norm(device),
        "align_corners": False,
    }
    return {
        "type": "EncoderDecoder",
        "data_preprocessor": parts.preprocessor(params),
        "backbone": backbone,
        "decode_head": {
            "type": "UPerHead",
            "in_channels": list(widths),
            "in_index": list(range(len(widths))),
            "pool_scales": (1, 2, 3, 6),
            "channels": params.widths.pyramid,
            **shared,
            "loss_decode": parts.cross_entropy(),
        },
        "auxiliary_head": {
            "type": "FCNHead",
            "in_channels": widths[AUXILIARY_MAP],
            "in_index": AUXILIARY_MAP,
            "channels": params.widths.head,
            "num_convs": 1,
            "concat_input": False,
            **shared,
            "loss_decode": parts.cross_entropy(weight=0.4),
        },
        "train_cfg": {},
        "test_cfg": {"mode": "whole"},
    }
