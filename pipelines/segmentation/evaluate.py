"""Evaluates a segmenter: measures mIoU with the same validation as in training, without
training."""

from __future__ import annotations

import shutil
from pathlib import Path

from orchestrator.contract import CHECKPOINT, DETAILS, StageContext, StageResult
from pipelines.data.folder import stage_data_folder
from pipelines.details.painting import evenly_spread
from pipelines.openmmlab.backbone_init import BackboneInit
from pipelines.openmmlab.outputs import SavedModel, load_model
from pipelines.openmmlab.recipe import Config
from pipelines.segmentation.ade20k import Pairs, read_classes, read_pairs, write_split
from pipelines.segmentation.config import Kept
from pipelines.segmentation.measure import Subject, measure, measure_multi_scale_flip
from pipelines.segmentation.model import model_of
from pipelines.segmentation.painting import paint
from pipelines.segmentation.params import SegmentationEvaluationParams
from pipelines.segmentation.scores import PREDICTIONS
from pipelines.segmentation.train import check_pairs

MULTI_SCALE_FLIP_DIR = "multi_scale_flip"
"""Folder in `details` with the same files for the predictions by multi-scale + flip."""


def run(context: StageContext) -> StageResult:
    """Runs the evaluation. Output: `details`. Metrics in %, as in training."""
    params: SegmentationEvaluationParams = context.params
    root = stage_data_folder(context, "ade20k", "validation")
    classes = read_classes(root, params)
    saved = load_model(context.inputs[CHECKPOINT])
    saved.check(method=params.method_name, classes=classes)
    model = _model(context, saved)
    pairs, split_file = _val(context, root, classes)
    names = tuple(split_file.read_text(encoding="utf-8").splitlines())
    painted = tuple(names[index] for index in evenly_spread(len(names), params.num_painted))
    details = context.work_dir / "outputs" / DETAILS
    subject = Subject(model, saved.weights, pairs, split_file, classes)
    metrics = measure(context, subject, Kept(details, None if params.predictions else painted))
    if params.tta:
        kept = Kept(details / MULTI_SCALE_FLIP_DIR, None if params.predictions else ())
        metrics += measure_multi_scale_flip(context, subject, kept)
    if context.rank == 0:
        _paint(details, pairs, painted, classes)
        if not params.predictions:
            shutil.rmtree(details / PREDICTIONS, ignore_errors=True)
    return StageResult({DETAILS: details}, metrics + saved.sizes)


def _paint(details: Path, pairs: Pairs, names: tuple[str, ...], classes: tuple[str, ...]) -> None:
    for name in names:
        image = pairs.images_dir / (name + pairs.suffix)
        predicted = details / PREDICTIONS / f"{name}.png"
        paint(
            image, pairs.label_path(image), predicted, classes, details / "painted" / f"{name}.jpg"
        )


def _model(context: StageContext, saved: SavedModel) -> Config:
    model = model_of(context, BackboneInit(saved.backbone), num_classes=len(saved.classes))
    saved.check_model(model)
    return model


def _val(context: StageContext, root: Path, classes: tuple[str, ...]) -> tuple[Pairs, Path]:
    """The pairs of validation, and the file that lists the pairs whose images decode."""
    pairs = read_pairs(root, "validation")
    broken = check_pairs([pairs], num_classes=len(classes), context=context)
    return pairs, write_split(pairs, broken, context.work_dir / "validation.txt")
