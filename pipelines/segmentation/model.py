"""The table of segmenters: method -> the module that writes its model config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from orchestrator.contract import StageContext
from orchestrator.errors import JobError
from pipelines.openmmlab import config_model
from pipelines.openmmlab.backbone_init import BackboneInit
from pipelines.openmmlab.recipe import Config
from pipelines.segmentation import semantic_fpn, upernet
from pipelines.segmentation.methods import MethodName
from pipelines.segmentation.params import SegmentationParams


class SegmenterBuilder(Protocol):
    """Makes a model config. `widths`: channels of the backbone's four maps."""

    def __call__(
        self,
        params: SegmentationParams,
        *,
        backbone: Config,
        widths: Sequence[int],
        num_classes: int,
        device: str,
    ) -> Config: ...


BUILDERS: Mapping[MethodName, SegmenterBuilder] = MappingProxyType(
    {"semantic_fpn": semantic_fpn.model, "upernet": upernet.model}
)


def make_model(
    params: SegmentationParams,
    *,
    backbone: Config,
    widths: Sequence[int],
    num_classes: int,
    device: str,
) -> Config:
    """The model config of `params.method`."""
    assert params.method is not None
    build = BUILDERS[params.method]
    return build(params, backbone=backbone, widths=widths, num_classes=num_classes, device=device)


def model_of(context: StageContext, start: BackboneInit, *, num_classes: int) -> Config:
    """The model of the stage, from a method or a config file. Raises JobError if the config does
    not fit."""
    params: SegmentationParams = context.params
    if params.config is None:
        assert start.config is not None
        widths, device = start.config.dims, context.device
        return make_model(
            params, backbone=start.backbone, widths=widths, num_classes=num_classes, device=device
        )
    model = config_model.make_model(context, start, scope="mmseg", num_classes=num_classes)
    if model["data_preprocessor"].get("size_divisor") is None:
        model["data_preprocessor"]["size"] = (params.crop_size, params.crop_size)
    return model


def check_batch(context: StageContext) -> None:
    """Raises JobError if batch norm would see a single value: UperNet's coarsest map has one
    position per image."""
    params: SegmentationParams = context.params
    is_shared = context.device != "cpu"
    images = params.batch_size if is_shared else params.batch_size // context.world_size
    if params.method == "upernet" and images < 2:  # noqa: PLR2004  a variance takes two
        where = (
            "over all workers"
            if is_shared
            else "on each worker, because CPUs do not share batch-norm statistics"
        )
        raise JobError(
            f"batch_size: upernet needs at least 2 images {where}; raise batch_size or use fewer "
            "workers"
        )
