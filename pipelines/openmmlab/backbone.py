"""CAT as a backbone for mmdet's and mmseg's models. Their configs refer to it as `CAT`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cat_model import CatBackbone, CatConfig, WeightsError
from cat_model.weights.fitting import Fit, fit
from cat_model.weights.identify import load_checkpoint
from cat_model.weights.load import classifier_to_backbone, fill
from orchestrator.errors import CheckpointError
from pipelines.cat.checkpoint import file_from_outside
from pipelines.openmmlab.library import MODELS

ALL_MAPS = (0, 1, 2, 3)


@dataclass(frozen=True)
class Pretrained:
    """A backbone read from a checkpoint: its network, the tensors that it takes, and a report on
    the other tensors."""

    config: CatConfig
    name: str | None
    """Name of the published size; None for a custom size."""
    fitted: Fit

    @property
    def summary(self) -> str:
        """One line that lists what was loaded and what was not."""
        return f"{self.name or 'a CAT of a custom size'}; {'; '.join(self.fitted.report.lines())}"


def read_pretrained(
    checkpoint_dir: Path, *, drop_path_rate: float | None, out_indices: Sequence[int] = ALL_MAPS
) -> Pretrained:
    """Reads the backbone of a classifier from its checkpoint folder. The folder holds our own
    format or a single file in the official or timm's layout.

    `drop_path_rate` replaces the checkpoint's rate unless it is None. The norms of the maps may be
    new, and the classifier's norm and head are left out. Raises CheckpointError, with names and
    shapes, if any other tensor is missing or left over.
    """
    try:
        found = load_checkpoint(file_from_outside(checkpoint_dir) or checkpoint_dir)
        rate = found.config.drop_path_rate if drop_path_rate is None else drop_path_rate
        config = replace(found.config, drop_path_rate=rate)
        with torch.device("meta"):
            model = CatBackbone(config, out_indices=out_indices)
        allow = classifier_to_backbone(model, found.weights)
        source = f"{Path(found.source).name} and a CatBackbone"
        return Pretrained(
            config, found.name, fit(model.state_dict(), found.weights, source=source, allow=allow)
        )
    except (WeightsError, OSError) as err:
        raise CheckpointError(
            f"backbone: the pretrained checkpoint does not fit CAT: {err}; set `backbone` to the "
            "checkpoint of a pretrain stage, or to a file in the official or timm's layout"
        ) from err


def make_backbone(
    config: Mapping[str, object],
    checkpoint: str | None = None,
    frozen_stages: int | None = None,
    out_indices: Sequence[int] = ALL_MAPS,
) -> CatBackbone:
    """Builds the network of `config`, with the weights in the folder `checkpoint` or random
    weights.

    The network has no `init_weights`, so mmengine's initialisation of the whole model skips it.
    """
    cat_config = CatConfig.from_dict(config)
    if checkpoint is None:
        backbone = CatBackbone(cat_config, out_indices=out_indices)
    else:
        backbone = _load(Path(checkpoint), cat_config, out_indices)
    if frozen_stages is not None:
        backbone.freeze(frozen_stages)
    return backbone


def _load(checkpoint_dir: Path, config: CatConfig, out_indices: Sequence[int]) -> CatBackbone:
    found = read_pretrained(
        checkpoint_dir, drop_path_rate=config.drop_path_rate, out_indices=out_indices
    )
    assert found.config == config, "backbone_init.py reads the config from the same checkpoint"
    with torch.device("meta"):
        model = CatBackbone(config, out_indices=out_indices)
    return fill(model, found.fitted.tensors)


MODELS.register_module(name="CAT", module=make_backbone)
