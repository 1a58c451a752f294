"""Runs a detection stage: checks the data, trains a detector on the backbone, and measures its
AP."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

from orchestrator.contract import Event, StageContext, StageResult
from orchestrator.errors import DataError
from pipelines.data.folder import stage_data_folder
from pipelines.detection.annotations.coco import (
    Annotations,
    check_annotations,
    checked_file,
    read_annotations,
)
from pipelines.detection.annotations.usage import Split
from pipelines.detection.complexity import COUNTER
from pipelines.detection.config import make_config
from pipelines.detection.images import check_images
from pipelines.detection.model import model_of
from pipelines.detection.params import DetectionParams
from pipelines.detection.scores import PREFIX
from pipelines.openmmlab.backbone_init import make_backbone_init, report_backbone_init
from pipelines.openmmlab.outputs import save_model
from pipelines.openmmlab.progress import TrainingSchedule
from pipelines.openmmlab.recipe import Config
from pipelines.openmmlab.record import make_record
from pipelines.openmmlab.runner import TrainingSetup, finished, train


def run(context: StageContext) -> StageResult:
    """Runs the stage. Output: `checkpoint`, the detector. Metrics in %, from the last epoch's
    validation."""
    params: DetectionParams = context.params
    names = params.traits.metrics
    schedule = TrainingSchedule(
        "epoch", params.epochs, params.val_every, params.checkpoint_every, params.keep_best
    )
    classes, model, config = _prepare(context)
    record = make_record(context, "mmdet", config, COUNTER)
    trained = finished(context, schedule)
    if trained is None:
        trained = train(
            context,
            TrainingSetup("mmdet", record.resolved, schedule, partial(percentages, names=names)),
        )
    directory = context.work_dir / "outputs" / "checkpoint"
    if context.rank == 0:
        save_model(
            directory,
            method=params.method_name,
            model=model,
            classes=classes,
            weights=trained.weights,
        )
        record.write(directory, context)
    return StageResult(
        {"checkpoint": directory}, (*trained.as_metrics(names), *record.metrics, *trained.training)
    )


def percentages(values: Mapping[str, float], *, names: Sequence[str]) -> dict[str, float]:
    """The evaluator's values, in %, by our `names`."""
    metrics = {name: float(values[f"{PREFIX}/{name}"]) for name in names}
    for name, value in metrics.items():
        if math.isnan(value):
            raise DataError(
                f"{name} cannot be measured: the val annotations have no objects of the job's "
                "classes"
            )
    return metrics


def _prepare(context: StageContext) -> tuple[Sequence[str], Config, Config]:
    """Classes, model and the whole config. The annotations, 2.7 GiB per process for COCO, are freed
    on return."""
    files = _read(context)
    context.emit(Event(files["train"].use))
    classes = files["train"].classes
    model = _model(context, num_classes=len(classes))
    return classes, model, _config(context, model=model, files=files)


def _read(context: StageContext) -> dict[Split, Annotations]:
    splits: tuple[Split, ...] = ("train", "val")
    root = stage_data_folder(context, "coco", *splits)
    files = {split: read_annotations(root, split) for split in splits}
    check_annotations(files.values(), context.params)
    return files


def _model(context: StageContext, *, num_classes: int) -> Config:
    start = make_backbone_init(context)
    report_backbone_init(context, start)
    return model_of(context, start, num_classes=num_classes)


def _config(context: StageContext, *, model: Config, files: Mapping[Split, Annotations]) -> Config:
    """The Runner's whole config, for the images that can be decoded."""
    params: DetectionParams = context.params
    broken = check_images(files.values(), context)
    copies = {split: context.work_dir / f"instances_{split}.json" for split in files}
    return make_config(
        params,
        model=model,
        annotations={
            split: checked_file(file, broken, copies[split]) for split, file in files.items()
        },
        classes=files["train"].classes,
        seed=context.seed,
        world_size=context.world_size,
        device=context.device,
    )
