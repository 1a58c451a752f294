"""The entry point of the kind `pretrain`: epochs of training and evaluation, a checkpoint, the trained classifier."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cat_model.model import Cat
from cat_model.weights import save_classifier
from orchestrator.contract import Event, StageContext, StageResult
from pipelines.data import data_place
from pipelines.imagenet.broken import BrokenImages
from pipelines.imagenet.layouts import load_classes, open_images
from pipelines.imagenet.seeding import Stream, seed_all, seeds
from pipelines.pretrain.data import Loaders, make_loaders
from pipelines.pretrain.engine import Criterion, Precision, Trainer, evaluate
from pipelines.pretrain.network import checked_device, make_config
from pipelines.pretrain.optim import make_optimizer, make_schedule
from pipelines.pretrain.params import PretrainParams
from pipelines.pretrain.state import Progress, load_state, save_state


@dataclass(frozen=True)
class Stage:
    """A pretraining stage in this process; `model` is the bare network that `trainer` updates."""

    context: StageContext
    params: PretrainParams
    loaders: Loaders
    model: Cat
    trainer: Trainer


def run(context: StageContext) -> StageResult:
    """Train from `context.resume_dir`, or from the start, to the last epoch; rank 0 writes the classifier."""
    params: PretrainParams = context.params
    device = checked_device(context)
    classes = load_classes(open_images(params.data), num_classes=params.num_classes)
    stage = _make_stage(context, classes, device)
    progress = _resumed(stage)
    while progress is None or progress.epoch < params.epochs:
        progress = _run_epoch(stage, progress)
    return _result(stage, classes, progress)


def _make_stage(context: StageContext, classes: tuple[str, ...], device: torch.device) -> Stage:
    params: PretrainParams = context.params
    loaders = make_loaders(context, classes)
    seed_all(seeds(Stream.WEIGHTS, context.seed))
    model = Cat(make_config(params), num_classes=len(classes)).to(device)
    precision = Precision(params.precision, device)
    trainer = Trainer(
        model=_on_all_ranks(model, device),
        optimizer=make_optimizer(model, params),
        scaler=precision.scaler(),
        schedule=make_schedule(params, updates_per_epoch=len(loaders.train)),
        criterion=Criterion(params, num_classes=len(classes)),
        precision=precision,
        clip_grad=params.clip_grad,
    )
    return Stage(context, params, loaders, model, trainer)


def _on_all_ranks(model: nn.Module, device: torch.device) -> nn.Module:
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return model
    device_ids = [device] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=device_ids, gradient_as_bucket_view=True)


def _resumed(stage: Stage) -> Progress | None:
    resume_dir, trainer = stage.context.resume_dir, stage.trainer
    if resume_dir is None:
        return None
    return load_state(resume_dir, model=stage.model, optimizer=trainer.optimizer, scaler=trainer.scaler)


def _run_epoch(stage: Stage, previous: Progress | None) -> Progress:
    context, epoch = stage.context, previous.epoch if previous else 0
    root = data_place(stage.params.data, "imagenet")
    broken = BrokenImages(root, limit=stage.params.max_broken_images, paths=previous.broken if previous else ())
    seed_all(seeds(Stream.UPDATES, context.seed, epoch, context.rank))
    stage.loaders.draws.epoch = epoch
    start_s = time.monotonic()
    loss = stage.trainer.train_epoch(
        stage.loaders.train, epoch, broken, lambda step, loss: _emit_window(stage, epoch, step, loss)
    )
    images_per_s = len(stage.loaders.train) * stage.params.batch_size / (time.monotonic() - start_s)
    scores = evaluate(stage.model, stage.loaders.val, stage.trainer.precision, broken)
    progress = Progress(epoch + 1, loss, scores, broken.paths)
    _emit_epoch(stage, progress, images_per_s)
    _report(stage, progress)
    return progress


def _emit_window(stage: Stage, epoch: int, step: int, loss: float) -> None:
    """Epochs shorter than a window have their own event only."""
    num_steps, num_epochs = len(stage.loaders.train), stage.params.epochs
    if stage.context.rank == 0 and step < num_steps:
        text = f"epoch {epoch + 1}/{num_epochs} step {step}/{num_steps} loss {loss:.3f}"
        stage.context.emit(Event(text, done=epoch + step / num_steps, total=num_epochs, metrics={"loss": loss}))


def _emit_epoch(stage: Stage, progress: Progress, images_per_s: float) -> None:
    if stage.context.rank != 0:
        return
    metrics = {**_metrics(progress), "images_per_s": images_per_s}
    text = f"epoch {progress.epoch}/{stage.params.epochs} loss {progress.loss:.3f} top1 {progress.scores.top1:.1f}"
    if progress.broken:
        text += f" broken images {len(progress.broken)}"
    stage.context.emit(Event(text, done=progress.epoch, total=stage.params.epochs, metrics=metrics))


def _report(stage: Stage, progress: Progress) -> None:
    """Commit a checkpoint where one is due: the weights and all else that later epochs depend on."""
    context, params, trainer = stage.context, stage.params, stage.trainer
    if progress.epoch % (params.checkpoint_every.epochs or 1) and progress.epoch != params.epochs:
        return
    directory = context.work_dir / f"epoch_{progress.epoch:04d}" if context.rank == 0 else None
    if directory is not None:
        save_state(directory, progress, model=stage.model, optimizer=trainer.optimizer, scaler=trainer.scaler)
    context.report(_metrics(progress), directory)


def _metrics(progress: Progress) -> dict[str, float]:
    scores = progress.scores
    return {"epoch": progress.epoch, "loss": progress.loss, "top1": scores.top1, "top5": scores.top5}


def _result(stage: Stage, classes: tuple[str, ...], progress: Progress) -> StageResult:
    """The classifier and its scores on val."""
    checkpoint = stage.context.work_dir / "checkpoint"
    if stage.context.rank == 0:
        save_classifier(checkpoint, stage.model, classes=classes)
    return StageResult(outputs={"checkpoint": checkpoint}, metrics=progress.scores.as_metrics())
