"""Runs a detection stage: checks the data, trains on the pretrained backbone, measures the AP of its method."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

from orchestrator.contract import StageContext, StageResult
from orchestrator.errors import DataError
from pipelines.data import data_folder
from pipelines.detection.coco import Annotations, Split, check_annotations, read_annotations, without_images
from pipelines.detection.config import make_config
from pipelines.detection.methods import METHODS
from pipelines.detection.model import make_model
from pipelines.detection.params import DetectionParams
from pipelines.detection.scores import PREFIX
from pipelines.openmmlab.backbone import read_config
from pipelines.openmmlab.images import broken_images
from pipelines.openmmlab.outputs import save_model
from pipelines.openmmlab.progress import Schedule
from pipelines.openmmlab.recipe import Config, backbone
from pipelines.openmmlab.runner import Training, finished, train


def run(context: StageContext) -> StageResult:
    """Output `checkpoint`: the detector. Metrics in %, of the last epoch's validation."""
    params: DetectionParams = context.params
    files = _read(params)
    classes, names = files["train"].classes, METHODS[params.method].metrics
    model = _model(context, num_classes=len(classes))
    schedule = Schedule("epoch", params.epochs, params.val_every, params.checkpoint_every)
    trained = finished(context, schedule)
    if trained is None:
        config = _config(context, model=model, files=files)
        trained = train(context, Training("mmdet", config, schedule, partial(percentages, names=names)))
    directory = context.work_dir / "outputs" / "checkpoint"
    if context.rank == 0:
        save_model(directory, method=params.method, model=model, classes=classes, weights=trained.weights)
    return StageResult({"checkpoint": directory}, trained.as_metrics(names))


def percentages(values: Mapping[str, float], *, names: Sequence[str]) -> dict[str, float]:
    """The evaluator's values, in %, by our `names`."""
    metrics = {name: float(values[f"{PREFIX}/{name}"]) for name in names}
    for name, value in metrics.items():
        if math.isnan(value):
            raise DataError(f"{name} cannot be measured: the val annotations have no objects of the job's classes")
    return metrics


def _read(params: DetectionParams) -> dict[Split, Annotations]:
    splits: tuple[Split, ...] = ("train", "val")
    root = data_folder(params.data, "coco")
    files = {split: read_annotations(root, split) for split in splits}
    check_annotations(files.values(), params)
    return files


def _model(context: StageContext, *, num_classes: int) -> Config:
    params: DetectionParams = context.params
    checkpoint_dir = context.inputs["backbone"]
    cat_config = read_config(checkpoint_dir, drop_path_rate=params.drop_path_rate)
    pretrained = backbone(cat_config.to_dict(), str(checkpoint_dir))
    return make_model(params, backbone=pretrained, widths=cat_config.dims, num_classes=num_classes)


def _config(context: StageContext, *, model: Config, files: Mapping[Split, Annotations]) -> Config:
    """Everything for the Runner, over the images that decode."""
    params: DetectionParams = context.params
    broken = broken_images(
        [path for file in files.values() for path in file.image_paths],
        max_broken_images=params.max_broken_images,
        num_threads=params.loader_workers,
        context=context,
    )
    copies = {split: context.work_dir / f"instances_{split}.json" for split in files}
    return make_config(
        params,
        model=model,
        annotations={split: without_images(file, broken, copies[split]) for split, file in files.items()},
        classes=files["train"].classes,
        seed=context.seed,
        world_size=context.world_size,
        device=context.device,
    )
