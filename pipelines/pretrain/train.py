"""The entry point of the kind `pretrain`: trains and evaluates by epoch, and writes checkpoints and
the trained classifier."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import torch
import torch.distributed as dist
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cat_model.model import Cat
from cat_model.weights.load import save_classifier
from orchestrator.artifact import Metric
from orchestrator.contract import EPOCHS_FILE, Event, StageContext, StageResult
from pipelines.imagenet.layouts import load_classes, open_images
from pipelines.pretrain.checkpoint import Checkpoints
from pipelines.pretrain.criterion import Criterion
from pipelines.pretrain.data import Loaders, make_loaders
from pipelines.pretrain.epoch import Epoch, EpochLoopState
from pipelines.pretrain.memory import explaining_memory
from pipelines.pretrain.network import checked_device, make_config, start_weights
from pipelines.pretrain.optim import make_optimizer, make_schedule
from pipelines.pretrain.params import PretrainParams
from pipelines.pretrain.precision import Precision
from pipelines.pretrain.progress import Progress
from pipelines.pretrain.trainer import Trainer
from pipelines.training.compiling import compile_in_place
from pipelines.training.coordinator import Coordinator
from pipelines.training.distributed import let_group_go
from pipelines.training.metrics import training_metrics
from pipelines.training.seeding import Stream, seed_all, seeds

WEIGHTS = "weights"
"""Name of the input with the classifier that fine-tuning starts from."""


def run(context: StageContext) -> StageResult:
    """Train from `context.resume_dir`, or from the start, to the last epoch; rank 0 writes the
    classifier."""
    params: PretrainParams = context.params
    device = checked_device(context)
    images = open_images(params.data, cache_gib=params.cache_gib)
    classes = load_classes(images, num_classes=params.num_classes)
    training = make_training(
        context, make_loaders(context, images, classes), classes=classes, device=device
    )
    progress = training.checkpoints.load()
    if context.resume_dir is not None:
        context.emit(_resumed(progress, training))
    with explaining_memory(params, world_size=context.world_size, device=device):
        training.trainer.warm_up_ddp(_blank_micro_batch(params, context.world_size, device))
        while progress.epoch < params.epochs:
            progress = Epoch(training, progress).run()
    return _result(training, classes, progress)


def _resumed(progress: Progress, training: EpochLoopState) -> Event:
    """Where the training continues: readers of its curves cut there what is trained again."""
    done = progress.epoch + progress.num_updates / training.loaders.updates_per_epoch
    total = training.params.epochs
    return Event(f"resuming at epoch {done:.4g}/{total}", done=done, total=total)


def _blank_micro_batch(params: PretrainParams, world_size: int, device: torch.device) -> Tensor:
    """Zero images, as many and as large as a worker computes at a time."""
    return torch.zeros(
        params.micro_batch_size(world_size), 3, params.input_size, params.input_size, device=device
    )


def make_training(
    context: StageContext, loaders: Loaders, *, classes: tuple[str, ...], device: torch.device
) -> EpochLoopState:
    """The objects that the stage trains with, in their initial state."""
    params: PretrainParams = context.params
    trainer = _make_trainer(context, loaders, classes=classes, device=device)
    return EpochLoopState(
        context=context,
        params=params,
        loaders=loaders,
        trainer=trainer,
        coordinator=Coordinator(
            params.checkpoint_every, context.should_stop, device, params.keep_best
        ),
        checkpoints=Checkpoints(context, trainer),
    )


def _make_trainer(
    context: StageContext, loaders: Loaders, *, classes: tuple[str, ...], device: torch.device
) -> Trainer:
    params: PretrainParams = context.params
    seed_all(seeds(Stream.WEIGHTS, context.seed))
    model = _make_model(context, classes, device)
    ema = None if params.ema_decay is None else ModelEmaV3(model, decay=params.ema_decay)
    if params.compile:
        compile_in_place([model], context)
    precision = Precision(params.precision, device)
    return Trainer(
        model=_on_all_ranks(model, device),
        unwrapped=model,
        ema=ema,
        optimizer=make_optimizer(model, params),
        scaler=precision.scaler(),
        schedule=make_schedule(params, updates_per_epoch=loaders.updates_per_epoch),
        criterion=Criterion(params, num_classes=len(classes)),
        precision=precision,
        augment=loaders.augment,
        clip_grad=params.clip_grad,
        skips_non_finite=params.non_finite == "skip",
    )


def _make_model(context: StageContext, classes: tuple[str, ...], device: torch.device) -> Cat:
    """The initial network: random, or the classifier that fine-tuning starts from."""
    params: PretrainParams = context.params
    model = Cat(make_config(params), num_classes=len(classes))
    if WEIGHTS in context.inputs and context.resume_dir is None:
        start_weights(model, context.inputs[WEIGHTS], params, classes)
    model = model.to(device)
    if params.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's annotation lacks it
    model.set_grad_checkpointing(params.activation_checkpointing)
    return model


def _on_all_ranks(model: nn.Module, device: torch.device) -> nn.Module:
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return model
    device_ids = [device] if device.type == "cuda" else None
    wrapped = DistributedDataParallel(model, device_ids=device_ids, gradient_as_bucket_view=True)
    let_group_go()
    return wrapped


def _result(training: EpochLoopState, classes: tuple[str, ...], progress: Progress) -> StageResult:
    """Write the classifier and the metric log; return them with the scores on val."""
    checkpoint, log = (training.context.work_dir / name for name in ("checkpoint", "log"))
    if training.context.rank == 0:
        model: Any = training.trainer.evaluated
        save_classifier(checkpoint, model, classes=classes)
        log.mkdir()
        lines = [json.dumps(asdict(record)) for record in progress.epochs]
        (log / EPOCHS_FILE).write_text("\n".join(lines) + "\n")
    metrics = (*progress.scores.as_metrics(), *_training_metrics(progress))
    return StageResult(outputs={"checkpoint": checkpoint, "log": log}, metrics=metrics)


def _training_metrics(progress: Progress) -> tuple[Metric, ...]:
    """The loss of the last epoch, and speed and wait for data over the whole training."""
    # All epochs have the same number of images, so this is the time of each, up to a factor.
    trained_s = [1 / record.images_per_s for record in progress.epochs]
    waited_s = [
        record.data_wait * seconds
        for record, seconds in zip(progress.epochs, trained_s, strict=True)
    ]
    return training_metrics(
        loss=progress.epochs[-1].loss,
        images_per_s=len(trained_s) / sum(trained_s),
        data_wait=sum(waited_s) / sum(trained_s),
    )
