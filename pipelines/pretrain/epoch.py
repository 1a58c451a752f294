"""Runs an epoch of training: feeds the trainer, keeps the figures, writes checkpoints, and stops
when asked to."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from orchestrator.contract import Event, StageContext
from orchestrator.errors import DivergedError
from pipelines.data.faults import first_named
from pipelines.imagenet.broken import BrokenImages, share_broken
from pipelines.imagenet.dataset import Batch
from pipelines.pretrain.checkpoint import Checkpoints
from pipelines.pretrain.data import Loaders
from pipelines.pretrain.params import PretrainParams
from pipelines.pretrain.progress import EpochRecord, Progress, joint_digest
from pipelines.pretrain.scores import evaluate
from pipelines.pretrain.trainer import Trainer
from pipelines.training.coordinator import Coordinator, save_or_stop
from pipelines.training.distributed import gather_over_ranks, mean_over_ranks
from pipelines.training.divergence import Losses, NonFiniteLossError, has_finite_weights
from pipelines.training.seeding import Stream, seed_all, seeds
from pipelines.training.speed import SpeedMeter


@dataclass(frozen=True)
class EpochLoopState:
    """Objects that the epochs of a stage share, in this process."""

    context: StageContext
    params: PretrainParams
    loaders: Loaders
    trainer: Trainer
    coordinator: Coordinator
    checkpoints: Checkpoints
    clock: Callable[[], float] = time.monotonic
    """Time in seconds."""


class Epoch:
    """The epoch after the finished ones of `progress`, from the update that it reached."""

    def __init__(self, training: EpochLoopState, progress: Progress) -> None:
        self._training = training
        self._began_with = progress
        context, loaders = training.context, training.loaders
        self._share = progress.share_of(context.rank, world_size=context.world_size)
        self._losses = Losses(self._share.loss_sum)
        self._num_updates, self._skipped = progress.num_updates, progress.skipped_updates
        self._speed = SpeedMeter(progress.trained_s, progress.waited_s)
        limit = training.params.max_broken_images
        self._broken = BrokenImages(loaders.location, limit=limit, paths=progress.broken)

    def run(self) -> Progress:
        """Train to the end of the epoch and evaluate.

        Raises StoppedError after a checkpoint, DivergedError for a NaN or infinite loss, and
        DataError for too many broken images.
        """
        training, loaders = self._training, self._training.loaders
        loaders.draws.epoch, loaders.draws.first_update = self._began_with.epoch, self._num_updates
        batches = iter(loaders.train) if self._num_updates < loaders.updates_per_epoch else iter(())
        while self._num_updates < loaders.updates_per_epoch:
            began_s = training.clock()
            micro_batches = list(islice(batches, training.params.accumulate))
            waited_s = training.clock() - began_s
            self._update(micro_batches)
            action = training.coordinator.after(self._total_updates)
            # Measure after the coordinator, where ranks on GPUs wait for their updates to finish,
            # but before checkpoints are written.
            self._speed.add(trained_s=training.clock() - began_s, waited_s=waited_s)
            save_or_stop(
                action,
                training.context,
                write=self._write_checkpoint,
                last_checkpoint=self._last_checkpoint,
            )
        return self._evaluate_and_report()

    @property
    def _total_updates(self) -> int:
        """Total updates in the whole training."""
        return self._began_with.epoch * self._training.loaders.updates_per_epoch + self._num_updates

    def _update(self, micro_batches: Sequence[Batch]) -> None:
        context = self._training.context
        for micro_batch in micro_batches:
            self._broken.add(micro_batch.broken)
            self._share = self._share.seeing(micro_batch.indices)
        seed_all(
            seeds(
                Stream.UPDATES,
                context.seed,
                self._began_with.epoch,
                self._num_updates,
                context.rank,
            )
        )
        loss = self._training.trainer.update(micro_batches, self._total_updates)
        self._num_updates += 1
        if loss is None:
            self._count_skipped_update()
        else:
            self._losses.add(self._num_updates, loss)
        if (
            self._losses.is_window_full
            or self._num_updates == self._training.loaders.updates_per_epoch
        ):
            self._read_and_report_losses()

    def _count_skipped_update(self) -> None:
        self._skipped += 1
        limit = self._training.params.max_skipped_updates
        total = self._skipped + sum(record.skipped_updates for record in self._began_with.epochs)
        if total > limit:
            raise DivergedError(
                f"epoch {self._began_with.epoch + 1}, step {self._num_updates}: {total} updates "
                "had NaN or infinite gradients, more than max_skipped_updates = "
                f"{limit}; {self._advice}"
            )

    def _read_and_report_losses(self) -> None:
        """Read the losses and emit progress; epochs shorter than a window emit only their own
        event."""
        loss = self._read_losses()
        epoch, total = self._began_with.epoch, self._training.params.epochs
        step, num_steps = self._num_updates, self._training.loaders.updates_per_epoch
        if loss is None or step == num_steps or self._training.context.rank != 0:
            return
        metrics = {"loss": loss, "data_wait": self._speed.data_wait}
        text = f"epoch {epoch + 1}/{total} step {step}/{num_steps} loss {loss:.3f}"
        self._training.context.emit(
            Event(text, done=epoch + step / num_steps, total=total, metrics=metrics)
        )

    def _read_losses(self) -> float | None:
        try:
            return self._losses.read()
        except NonFiniteLossError as err:
            raise DivergedError(
                f"epoch {self._began_with.epoch + 1}, step {err.step}: the loss is {err.loss}; "
                f"{self._advice}"
            ) from err

    def _check_weights(self) -> None:
        """Raises DivergedError if the weights are not finite: the last gradient may have broken
        them after a finite loss, and such weights must not be saved."""
        if not has_finite_weights(self._training.trainer.unwrapped):
            raise DivergedError(
                f"epoch {self._began_with.epoch + 1}, step {self._num_updates}: the gradient and "
                f"the weights are NaN or infinite; {self._advice}"
            )

    @property
    def _advice(self) -> str:
        lr = self._training.trainer.schedule.lr(max(0, self._total_updates - 1))
        return (
            f"the learning rate was {lr:.3g} and {self._training.checkpoints.last}; lower lr, "
            "raise warmup_epochs, set clip_grad, use precision: fp32, or set non_finite: skip to "
            "skip single updates"
        )

    def _write_checkpoint(self) -> Path | None:
        return self._training.checkpoints.write(self._progress())

    def _last_checkpoint(self) -> str:
        return self._training.checkpoints.last

    def _progress(self) -> Progress:
        """The progress of the epoch, gathered from all ranks. Checks that the losses so far and the
        weights are finite."""
        self._read_losses()
        self._check_weights()
        share_broken(self._broken)
        share = replace(self._share, loss_sum=self._losses.sum)
        return Progress(
            epochs=self._began_with.epochs,
            num_updates=self._num_updates,
            shares=gather_over_ranks(share),
            skipped_updates=self._skipped,
            trained_s=self._speed.trained_s,
            waited_s=self._speed.waited_s,
            broken=self._broken.paths,
        )

    def _evaluate_and_report(self) -> Progress:
        """Evaluate, emit an event, and report the scores, with a checkpoint if one is due."""
        record = self._record(self._progress())
        progress = Progress(epochs=(*self._began_with.epochs, record), broken=self._broken.paths)
        training, num_epochs = self._training, self._training.params.epochs
        if training.context.rank == 0:
            training.context.emit(_event(record, num_epochs, broken=progress.broken))
        is_due = training.coordinator.is_epoch_due(progress.epoch, num_epochs=num_epochs)
        directory = training.checkpoints.write(progress) if is_due else None
        metrics = {
            "epoch": record.epoch,
            "loss": record.loss,
            "top1": record.top1,
            "top5": record.top5,
        }
        training.context.report(metrics, directory)
        return progress

    def _record(self, progress: Progress) -> EpochRecord:
        training, trainer = self._training, self._training.trainer
        scores = evaluate(trainer.evaluated, training.loaders.val, trainer.precision, self._broken)
        num_counted = max(1, progress.num_updates - progress.skipped_updates)
        return EpochRecord(
            epoch=progress.epoch + 1,
            loss=mean_over_ranks(self._losses.sum / num_counted, trainer.precision.device),
            lr=trainer.schedule.lr(self._total_updates - 1),
            top1=scores.top1,
            top5=scores.top5,
            num_samples=scores.num_samples,
            skipped_updates=progress.skipped_updates,
            images_per_s=progress.num_updates
            * training.params.batch_size
            / max(progress.trained_s, 1e-9),
            data_wait=self._speed.data_wait,
            samples_sha256=joint_digest(progress.shares),
        )


def _event(record: EpochRecord, num_epochs: int, *, broken: tuple[str, ...]) -> Event:
    metrics = {
        name: getattr(record, name)
        for name in ("loss", "lr", "top1", "top5", "images_per_s", "data_wait")
    }
    text = f"epoch {record.epoch}/{num_epochs} loss {record.loss:.3f} top1 {record.top1:.1f}"
    if record.skipped_updates:
        text += f" skipped updates {record.skipped_updates}"
    if broken:
        text += f" broken images {len(broken)}: {first_named(broken)}"
    return Event(
        text, done=record.epoch, total=num_epochs, metrics={"epoch": record.epoch, **metrics}
    )
