"""Pieces of mmseg's model configs that the segmenters share. Settings that are not params are as in
mmseg's baselines."""

from __future__ import annotations

from pipelines.openmmlab.recipe import NORMALISATION, Config
from pipelines.segmentation.params import SegmentationParams


def preprocessor(params: SegmentationParams) -> Config:
    """The preprocessor of images. It pads training images that are smaller than the crop; padding
    has no class."""
    crop = (params.crop_size, params.crop_size)
    return {
        "type": "SegDataPreProcessor",
        **NORMALISATION,
        "size": crop,
        "pad_val": 0,
        "seg_pad_val": 255,
    }


def batch_norm(device: str) -> Config:
    """Batch norm with statistics over all workers, which torch supports only on GPUs."""
    return {"type": "BN" if device == "cpu" else "SyncBN", "requires_grad": True}


def cross_entropy(*, weight: float = 1.0) -> Config:
    """Cross entropy, averaged over all pixels of the batch, also those without a label."""
    return {
        "type": "CrossEntropyLoss",
        "use_sigmoid": False,
        "avg_non_ignore": False,
        "loss_weight": weight,
    }
