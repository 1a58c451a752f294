"""Pieces of mmseg's model configs that the segmenters share. What is not a param is as in mmseg's
baselines."""

from __future__ import annotations

from pipelines.openmmlab.recipe import NORMALISATION, Config
from pipelines.segmentation.params import SegmentationParams


def preprocessor(params: SegmentationParams) -> Config:
    """Training images are padded to the crop, which smaller ones do not fill; padding is no
    class."""
    crop = (params.crop_size, params.crop_size)
    return {
        "type": "SegDataPreProcessor",
        **NORMALISATION,
        "size": crop,
        "pad_val": 0,
        "seg_pad_val": 255,
    }


def batch_norm(device: str) -> Config:
    """Statistics over all workers; torch has that for GPUs only."""
    return {"type": "BN" if device == "cpu" else "SyncBN", "requires_grad": True}


def cross_entropy(*, weight: float = 1.0) -> Config:
    """Averaged over all pixels of the batch, also those without a label."""
    return {
        "type": "CrossEntropyLoss",
        "use_sigmoid": False,
        "avg_non_ignore": False,
        "loss_weight": weight,
    }
