"""Evaluates a classifier: its scores on val, its size and its speed. Trains nothing."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.contract import CHECKPOINT, DETAILS, Event, StageContext, StageResult
from pipelines.imagenet.broken import BrokenImages
from pipelines.imagenet.dataset import Batch
from pipelines.imagenet.layouts import load_val_classes, open_images
from pipelines.imagenet.loading import Loader
from pipelines.pretrain.data import make_val_loader
from pipelines.pretrain.details import PredictionCollector, write_details
from pipelines.pretrain.measure import measure
from pipelines.pretrain.network import checked_device, load_checked_classifier, make_config
from pipelines.pretrain.params import PretrainEvaluationParams
from pipelines.pretrain.precision import Precision
from pipelines.pretrain.scores import Scores, evaluate
from pipelines.training.divergence import WINDOW

LARGEST_BATCH = 128
"""Images per batch on a worker: a training batch for eight workers may not fit one worker, and
larger batches gain nothing."""


def run(context: StageContext) -> StageResult:
    """Evaluate and return the output `details` and the metrics. Scores on val are measured as in
    training, in `precision`; rank 0 adds size and speed."""
    params: PretrainEvaluationParams = context.params
    device = checked_device(context)
    images = open_images(params.data, cache_gib=params.cache_gib)
    classes = load_val_classes(images, num_classes=params.num_classes)
    model = load_checked_classifier(
        context.inputs[CHECKPOINT],
        config=make_config(params),
        classes=classes,
        img_size=params.img_size,
    ).to(device)
    batch_size = min(max(1, params.batch_size // context.world_size), LARGEST_BATCH)
    source, collector = images.source("val", classes), PredictionCollector()
    loader = make_val_loader(source, context, batch_size=batch_size)
    broken = BrokenImages(images.location, limit=params.max_broken_images)
    scores = evaluate(
        model,
        _with_events(loader, context),
        Precision(params.precision, device),
        broken,
        collector.add,
    )
    metrics = scores.as_metrics()
    predictions = collector.gather()
    details = context.work_dir / "outputs" / DETAILS
    if context.rank == 0:
        _report_scores(context, scores)
        write_details(
            details,
            predictions,
            source,
            num_painted=params.num_painted,
            writes_predictions=params.predictions,
        )
        metrics += measure(model, img_size=params.input_size, device=device)
    return StageResult({DETAILS: details}, metrics)


def _with_events(loader: Loader, context: StageContext) -> Iterator[Batch]:
    """The batches of `loader`; emits an event after every WINDOW of them."""
    for number, batch in enumerate(loader, 1):
        yield batch
        if context.rank == 0 and (number % WINDOW == 0 or number == len(loader)):
            context.emit(Event(f"batch {number}/{len(loader)}", done=number, total=len(loader)))


def _report_scores(context: StageContext, scores: Scores) -> None:
    values = {"top1": scores.top1, "top5": scores.top5}
    text = " ".join(f"{name} {value:.1f}" for name, value in values.items())
    context.emit(Event(f"{text} of {scores.num_samples} images; measuring speed", metrics=values))
