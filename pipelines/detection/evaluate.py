"""Evaluates a detector: measures AP on val with the same validation as in training, without
training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

from orchestrator.contract import CHECKPOINT, DETAILS, StageContext, StageResult
from pipelines.data.folder import stage_data_folder
from pipelines.detection.annotations.coco import (
    Annotations,
    CheckedFile,
    check_annotations,
    checked_file,
    read_annotations,
)
from pipelines.detection.config import make_val_config
from pipelines.detection.details import complete_details
from pipelines.detection.images import check_images
from pipelines.detection.model import model_of
from pipelines.detection.params import DetectionEvaluationParams
from pipelines.detection.scores import PREFIX
from pipelines.detection.train import percentages
from pipelines.detection.traits import Method
from pipelines.openmmlab.backbone_init import BackboneInit
from pipelines.openmmlab.outputs import SavedModel, load_model
from pipelines.openmmlab.recipe import Config
from pipelines.openmmlab.runner import Validation, validate


def run(context: StageContext) -> StageResult:
    """Runs the evaluation. Output: `details`. Metrics in %: the training's metrics and more. Leaves
    out sizes that no object in val has."""
    params: DetectionEvaluationParams = context.params
    root = stage_data_folder(context, "coco", "val")
    file = read_annotations(root, "val")
    check_annotations([file], params)
    saved = load_model(context.inputs[CHECKPOINT])
    saved.check(method=params.method_name, classes=file.classes)
    annotations, details = _annotations(context, file), context.work_dir / "outputs" / DETAILS
    val = make_val_config(
        params, annotations=annotations, classes=file.classes, details_dir=details
    )
    method = params.traits
    config = {"model": _model(context, saved), **val}
    measured = validate(
        context, Validation("mmdet", config, saved.weights, partial(_percentages, method=method))
    )
    if context.rank == 0:
        complete_details(
            details,
            params,
            ann_file=annotations.path,
            images_dir=file.images_dir,
            has_masks=method.has_masks,
        )
    return StageResult({DETAILS: details}, measured.as_metrics(measured.metrics) + saved.sizes)


def _percentages(values: Mapping[str, float], *, method: Method) -> dict[str, float]:
    """The metrics of training, and all other metrics that are not NaN."""
    measured = {name for name in method.all_metrics if not math.isnan(values[f"{PREFIX}/{name}"])}
    return percentages(
        values, names=[name for name in method.all_metrics if name in {*measured, *method.metrics}]
    )


def _model(context: StageContext, saved: SavedModel) -> Config:
    model = model_of(context, BackboneInit(saved.backbone), num_classes=len(saved.classes))
    saved.check_model(model)
    return model


def _annotations(context: StageContext, file: Annotations) -> CheckedFile:
    """The annotation file, or a copy of it, with only the images that can be decoded."""
    return checked_file(
        file, check_images([file], context), context.work_dir / "instances_val.json"
    )
