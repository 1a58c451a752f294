"""Loads networks of the published sizes from single files of the official repository, which hold no
config.

The size is identified by the tensors. Only tensors and plain values are unpickled.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from cat_model.backbone import CatBackbone
from cat_model.config import CONFIGS
from cat_model.errors import WeightsError
from cat_model.model import Cat
from cat_model.weights.fitting import fit
from cat_model.weights.identify import Checkpoint, load_checkpoint
from cat_model.weights.load import StrPath, backbone_of, fill


def load_official_classifier(path: StrPath) -> Cat:
    """The classifier in the file. Raises WeightsError, which lists names and shapes."""
    official = _load_published(path)
    if not official.is_classifier:
        raise WeightsError(
            f"{path}: is the backbone of {official.name} without the norm and the head of a "
            "classifier; use load_official_backbone"
        )
    with torch.device("meta"):
        model = Cat(official.config, num_classes=len(official.weights.tensors["head.fc.weight"]))
    fitted = fit(model.state_dict(), official.weights, source=f"{path} and {official.name}")
    return fill(model, fitted.tensors)


def load_official_backbone(path: StrPath, *, drop_path_rate: float | None = None) -> CatBackbone:
    """The trunk of the classifier in the file, with new norms for its maps. Raises WeightsError.

    The file may also hold a backbone, whose norms are then kept. `drop_path_rate` None keeps the
    rate of the published recipe.
    """
    official = _load_published(path)
    config = (
        official.config
        if drop_path_rate is None
        else replace(official.config, drop_path_rate=drop_path_rate)
    )
    return backbone_of(config, official.weights, source=f"{path} ({official.name})")


def _load_published(path: StrPath) -> Checkpoint:
    checkpoint = load_checkpoint(Path(path))
    if checkpoint.name is None:
        raise WeightsError(
            f"{path}: holds no published size ({', '.join(CONFIGS)}), but {checkpoint.config}; "
            "use load_checkpoint"
        )
    return checkpoint
