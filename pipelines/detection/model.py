"""The table of detectors: method -> the module that writes its model config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from orchestrator.contract import StageContext
from orchestrator.errors import JobError
from pipelines.detection.methods import atss, cascade_rcnn, fcos, mask_rcnn, retinanet
from pipelines.detection.params import DetectionParams
from pipelines.detection.traits import MethodName
from pipelines.openmmlab import config_model
from pipelines.openmmlab.backbone_init import BackboneInit
from pipelines.openmmlab.recipe import Config


class DetectorBuilder(Protocol):
    """Makes a model config. `widths`: channels of the backbone's four maps."""

    def __call__(
        self, params: DetectionParams, *, backbone: Config, widths: Sequence[int], num_classes: int
    ) -> Config: ...


BUILDERS: Mapping[MethodName, DetectorBuilder] = MappingProxyType(
    {
        "mask_rcnn": mask_rcnn.model,
        "retinanet": retinanet.model,
        "fcos": fcos.model,
        "atss": atss.model,
        "cascade_rcnn": cascade_rcnn.model,
    }
)


def make_model(
    params: DetectionParams, *, backbone: Config, widths: Sequence[int], num_classes: int
) -> Config:
    """The model config of `params.method`."""
    assert params.method is not None
    return BUILDERS[params.method](
        params, backbone=backbone, widths=widths, num_classes=num_classes
    )


def model_of(context: StageContext, start: BackboneInit, *, num_classes: int) -> Config:
    """The model of the stage, from a method or a config file. Raises JobError if the config does
    not fit."""
    params: DetectionParams = context.params
    if params.config is None:
        assert start.config is not None
        return make_model(
            params, backbone=start.backbone, widths=start.config.dims, num_classes=num_classes
        )
    model = config_model.make_model(context, start, scope="mmdet", num_classes=num_classes)
    has_masks = bool(model.get("mask_head") or model.get("roi_head", {}).get("mask_head"))
    if has_masks != params.masks:
        raise JobError(
            f"masks: the model of {params.config} has {'a' if has_masks else 'no'} mask head; "
            f"set masks: {str(has_masks).lower()}"
        )
    return model
