"""The table of segmenters: method -> the module that writes its model config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from pipelines.openmmlab.recipe import Config
from pipelines.segmentation import semantic_fpn, upernet
from pipelines.segmentation.methods import MethodName
from pipelines.segmentation.params import SegmentationParams


class Builder(Protocol):
    """`widths`: channels of the backbone's four maps."""

    def __call__(
        self, params: SegmentationParams, *, backbone: Config, widths: Sequence[int], num_classes: int, device: str
    ) -> Config: ...


BUILDERS: Mapping[MethodName, Builder] = MappingProxyType(
    {"semantic_fpn": semantic_fpn.model, "upernet": upernet.model}
)


def make_model(
    params: SegmentationParams, *, backbone: Config, widths: Sequence[int], num_classes: int, device: str
) -> Config:
    """The model config of `params.method`."""
    build = BUILDERS[params.method]
    return build(params, backbone=backbone, widths=widths, num_classes=num_classes, device=device)
