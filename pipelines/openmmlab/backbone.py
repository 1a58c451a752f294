"""CAT as a backbone of mmdet's and mmseg's models, by the name `CAT` in their configs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cat_model import CatBackbone, CatConfig, WeightsError, load_backbone, load_official_backbone
from orchestrator.errors import CheckpointError
from pipelines.checkpoint import file_from_outside
from pipelines.openmmlab.library import MODELS


def read_config(checkpoint_dir: Path, *, drop_path_rate: float | None) -> CatConfig:
    """The network of a pretrained checkpoint; `drop_path_rate` replaces its own unless None.

    Raises CheckpointError when the folder holds no backbone.
    """
    return _load(checkpoint_dir, drop_path_rate=drop_path_rate).config


def make_backbone(config: Mapping[str, object], checkpoint: str | None = None) -> CatBackbone:
    """The network of `config`, with the weights of the folder `checkpoint` or random ones.

    It has no `init_weights`, so mmengine's initialisation of the whole model passes it by.
    """
    cat_config = CatConfig.from_dict(config)
    if checkpoint is None:
        return CatBackbone(cat_config)
    backbone = _load(Path(checkpoint), drop_path_rate=cat_config.drop_path_rate)
    if backbone.config != cat_config:
        raise CheckpointError(f"{checkpoint}: holds the network {backbone.config}, but {cat_config} was asked for")
    return backbone


def _load(checkpoint_dir: Path, *, drop_path_rate: float | None) -> CatBackbone:
    try:
        file = file_from_outside(checkpoint_dir)
        if file is not None:
            return load_official_backbone(file, drop_path_rate=drop_path_rate)
        return load_backbone(checkpoint_dir, drop_path_rate=drop_path_rate)
    except (WeightsError, OSError) as err:
        raise CheckpointError(
            f"backbone: the pretrained checkpoint does not fit CAT: {err}; point `backbone` at the checkpoint of a "
            "pretrain stage, or at a file of the official layout"
        ) from err


MODELS.register_module(name="CAT", module=make_backbone)
