"""The evaluation of a segmenter: mIoU on validation, by the validation that training runs. Trains nothing."""

from __future__ import annotations

from orchestrator.contract import CHECKPOINT, Event, StageContext, StageResult
from pipelines.data import data_folder
from pipelines.openmmlab.outputs import SavedModel, load_model
from pipelines.openmmlab.recipe import Config, backbone
from pipelines.openmmlab.runner import Validation, validate
from pipelines.segmentation.ade20k import read_classes, read_pairs, write_split
from pipelines.segmentation.config import make_val_config
from pipelines.segmentation.params import SegmentationParams
from pipelines.segmentation.semantic_fpn import model as semantic_fpn
from pipelines.segmentation.train import METRICS, check_pairs, percentages


def run(context: StageContext) -> StageResult:
    """Metrics in %, as those of training."""
    params: SegmentationParams = context.params
    root = data_folder(params.data, "ade20k", "validation", tell=lambda text: context.emit(Event(text)))
    classes = read_classes(root, params)
    saved = load_model(context.inputs[CHECKPOINT])
    saved.check(method=params.method, classes=classes)
    config = {"model": _model(context, saved), **_val_config(context, classes)}
    measured = validate(context, Validation("mmseg", config, saved.weights, percentages))
    return StageResult({}, measured.as_metrics(METRICS))


def _model(context: StageContext, saved: SavedModel) -> Config:
    cat = backbone(saved.backbone.to_dict(), None)
    model = semantic_fpn(
        context.params,
        backbone=cat,
        widths=saved.backbone.dims,
        num_classes=len(saved.classes),
        device=context.device,
    )
    saved.check_model(model)
    return model


def _val_config(context: StageContext, classes: tuple[str, ...]) -> Config:
    """The val loader and the evaluator, over the images that decode."""
    params: SegmentationParams = context.params
    pairs = read_pairs(data_folder(params.data, "ade20k", "validation"), "validation")
    broken = check_pairs([pairs], num_classes=len(classes), context=context)
    split_file = write_split(pairs, broken, context.work_dir / "validation.txt")
    return make_val_config(params, pairs=pairs, split_file=split_file, classes=classes)
