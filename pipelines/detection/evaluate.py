"""The evaluation of a detector: the AP of its method on val, by the validation that training runs. Trains nothing."""

from __future__ import annotations

from functools import partial

from orchestrator.contract import CHECKPOINT, Event, StageContext, StageResult
from pipelines.data import data_folder
from pipelines.detection.coco import Annotations, check_annotations, read_annotations, without_images
from pipelines.detection.config import make_val_config
from pipelines.detection.images import check_images
from pipelines.detection.model import model_of
from pipelines.detection.params import DetectionParams
from pipelines.detection.train import percentages
from pipelines.openmmlab.outputs import SavedModel, load_model
from pipelines.openmmlab.recipe import Config
from pipelines.openmmlab.runner import Validation, validate
from pipelines.openmmlab.start import Start


def run(context: StageContext) -> StageResult:
    """Metrics in %, as those of training."""
    params: DetectionParams = context.params
    file = read_annotations(data_folder(params.data, "coco", "val", tell=lambda text: context.emit(Event(text))), "val")
    check_annotations([file], params)
    saved = load_model(context.inputs[CHECKPOINT])
    saved.check(method=params.method_name, classes=file.classes)
    config = {"model": _model(context, saved), **_val_config(context, file)}
    names = params.traits.metrics
    measured = validate(context, Validation("mmdet", config, saved.weights, partial(percentages, names=names)))
    return StageResult({}, measured.as_metrics(names))


def _model(context: StageContext, saved: SavedModel) -> Config:
    model = model_of(context, Start(saved.backbone), num_classes=len(saved.classes))
    saved.check_model(model)
    return model


def _val_config(context: StageContext, file: Annotations) -> Config:
    """The val loader and the evaluator, over the images that decode."""
    params: DetectionParams = context.params
    broken = check_images([file], context)
    annotations = without_images(file, broken, context.work_dir / "instances_val.json")
    return make_val_config(params, annotations=annotations, classes=file.classes)
