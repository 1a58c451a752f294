"""Runs a segmentation stage: checks the data, trains a segmenter on the backbone, and measures
mIoU."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from orchestrator.artifact import Metric
from orchestrator.contract import StageContext, StageResult
from orchestrator.errors import DataError
from pipelines.data.folder import data_folder, stage_data_folder
from pipelines.openmmlab.backbone_init import make_backbone_init, report_backbone_init
from pipelines.openmmlab.images import broken_images, faults, first_faulty
from pipelines.openmmlab.outputs import save_model
from pipelines.openmmlab.progress import TrainingSchedule
from pipelines.openmmlab.recipe import Config
from pipelines.openmmlab.record import make_record
from pipelines.openmmlab.runner import TrainingSetup, finished, train
from pipelines.segmentation.ade20k import (
    Pairs,
    Split,
    has_labels,
    label_fault,
    read_classes,
    read_pairs,
    write_split,
)
from pipelines.segmentation.complexity import COUNTER
from pipelines.segmentation.config import make_config
from pipelines.segmentation.measure import METRICS, Subject, measure_multi_scale_flip, percentages
from pipelines.segmentation.model import check_batch, model_of
from pipelines.segmentation.params import SegmentationParams

SPLITS: tuple[Split, ...] = ("training", "validation")


def run(context: StageContext) -> StageResult:
    """Runs the stage. Output: `checkpoint`, the segmenter. Metrics in %, from the last iteration's
    validation; `tta` adds one metric."""
    params: SegmentationParams = context.params
    root = stage_data_folder(context, "ade20k", *SPLITS)
    classes = read_classes(root, params)
    model = _model(context, num_classes=len(classes))
    schedule = TrainingSchedule(
        "iteration", params.max_iters, params.val_every, params.checkpoint_every, params.keep_best
    )
    record = make_record(context, "mmseg", _config(context, model=model, classes=classes), COUNTER)
    trained = finished(context, schedule)
    if trained is None:
        trained = train(context, TrainingSetup("mmseg", record.resolved, schedule, percentages))
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
    metrics = trained.as_metrics(METRICS)
    if params.tta:
        metrics += _multi_scale_flip(context, model=model, weights=trained.weights, classes=classes)
    return StageResult({"checkpoint": directory}, (*metrics, *record.metrics, *trained.training))


def _model(context: StageContext, *, num_classes: int) -> Config:
    check_batch(context)
    start = make_backbone_init(context)
    report_backbone_init(context, start)
    return model_of(context, start, num_classes=num_classes)


def _config(context: StageContext, *, model: Config, classes: Sequence[str]) -> Config:
    """The Runner's whole config, for the images that can be decoded."""
    params: SegmentationParams = context.params
    root = data_folder(params.data, "ade20k")
    pairs = {split: read_pairs(root, split) for split in SPLITS}
    broken = check_pairs(pairs.values(), num_classes=len(classes), context=context)
    return make_config(
        params,
        model=model,
        pairs=pairs,
        split_files={
            split: write_split(pairs[split], broken, context.work_dir / f"{split}.txt")
            for split in SPLITS
        },
        classes=classes,
        seed=context.seed,
        world_size=context.world_size,
        device=context.device,
    )


def _multi_scale_flip(
    context: StageContext, *, model: Config, weights: Mapping[str, Tensor], classes: tuple[str, ...]
) -> tuple[Metric, ...]:
    params: SegmentationParams = context.params
    pairs = read_pairs(data_folder(params.data, "ade20k"), "validation")
    broken = check_pairs([pairs], num_classes=len(classes), context=context)
    split_file = write_split(pairs, broken, context.work_dir / "multi_scale_flip.txt")
    return measure_multi_scale_flip(context, Subject(model, weights, pairs, split_file, classes))


def check_pairs(
    pairs: Collection[Pairs], *, num_classes: int, context: StageContext
) -> frozenset[Path]:
    """The images to leave out. Raises DataError if there are too many, or if any label map is
    wrong."""
    params: SegmentationParams = context.params
    of_image = {path: part.label_path(path) for part in pairs for path in part.image_paths}
    broken = broken_images(
        list(of_image),
        max_broken_images=params.max_broken_images,
        num_threads=params.loader_workers,
        context=context,
    )
    of_label = {label: image for image, label in of_image.items() if image not in broken}
    wrong = faults(
        list(of_label),
        lambda label: label_fault(label, of_label[label], num_classes),
        num_threads=params.loader_workers,
        context=context,
    )
    if wrong:
        raise DataError(
            f"{len(wrong)} of {len(of_label)} label maps are wrong: {first_faulty(wrong)}; "
            "replace these files"
        )
    for part in pairs:
        if not any(
            has_labels(part.label_path(path)) for path in part.image_paths if path not in broken
        ):
            raise DataError(
                f"{part.labels_dir}: no label map has a labeled pixel; 0 and 255 are unlabeled"
            )
    return broken
