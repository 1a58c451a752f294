"""The table of detectors: method -> the module that writes its model config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from pipelines.detection import atss, cascade_rcnn, fcos, mask_rcnn, retinanet
from pipelines.detection.methods import MethodName
from pipelines.detection.params import DetectionParams
from pipelines.openmmlab.recipe import Config


class Builder(Protocol):
    """`widths`: channels of the backbone's four maps."""

    def __call__(
        self, params: DetectionParams, *, backbone: Config, widths: Sequence[int], num_classes: int
    ) -> Config: ...


BUILDERS: Mapping[MethodName, Builder] = MappingProxyType(
    {
        "mask_rcnn": mask_rcnn.model,
        "retinanet": retinanet.model,
        "fcos": fcos.model,
        "atss": atss.model,
        "cascade_rcnn": cascade_rcnn.model,
    }
)


def make_model(params: DetectionParams, *, backbone: Config, widths: Sequence[int], num_classes: int) -> Config:
    """The model config of `params.method`."""
    return BUILDERS[params.method](params, backbone=backbone, widths=widths, num_classes=num_classes)
