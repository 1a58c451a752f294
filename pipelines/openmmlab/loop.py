"""The training loop of a stage for mmengine's Runner. It can resume between any two updates, and it
saves, validates and stops."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from orchestrator.contract import StageContext
from orchestrator.errors import StageError
from pipelines.openmmlab.library import BaseLoop, Runner
from pipelines.openmmlab.progress import (
    EMIT_EVERY,
    EventWriter,
    RunningMetrics,
    TrainingSchedule,
    num_val_images,
)
from pipelines.openmmlab.state import Position, save_state, unwrapped
from pipelines.openmmlab.stopping import StopInValidation
from pipelines.training.coordinator import Action, Coordinator, save_or_stop
from pipelines.training.distributed import (
    check_equal_on_ranks,
    gather_over_ranks,
    mean_over_ranks,
    share_buffers,
)
from pipelines.training.divergence import has_finite_weights
from pipelines.training.seeding import Stream, seed_all, seeds
from pipelines.training.speed import SpeedMeter


@dataclass(frozen=True)
class LoopConfig:
    """The settings that a stage passes to the loop."""

    context: StageContext
    schedule: TrainingSchedule
    metrics_of: Callable[[Mapping[str, float]], Mapping[str, float]]
    """Maps the evaluator's values to our metrics. Raises if a value is missing or NaN."""
    clock: Callable[[], float] = time.monotonic
    """The clock, in seconds."""


class StageLoop(BaseLoop):  # type: ignore[misc]  # untyped base
    """Trains for epochs, or for iterations as one long epoch, with validations in between.

    mmengine's own loops can begin only at the start of an epoch, and its checkpoint hooks cannot be
    asked to stop.
    """

    stop_training = False

    def __init__(self, runner: Runner, dataloader: Mapping[str, Any], config: LoopConfig) -> None:
        super().__init__(runner, dataloader)
        self._config = config
        self._is_epochs = config.schedule.unit == "epoch"
        context, device = config.context, torch.device(config.context.device)
        self._device = device
        self._coordinator = Coordinator(
            config.schedule.checkpoint_every, context.should_stop, device, config.schedule.keep_best
        )
        self._events = EventWriter(
            context,
            config.schedule,
            self.max_iters,
            self.dataloader.batch_size * context.world_size,
        )
        runner.register_hook(StopInValidation(context, lambda: self._save_or_stop(Action.STOP)))
        self._num_written = 0
        self._begin_at(Position())

    def resume_at(self, position: Position) -> None:
        """Sets the position to resume from. The runner's weights and optimizer must belong to this
        position."""
        self._begin_at(position)
        self._events.report_resumption(position.iteration)

    def _begin_at(self, position: Position) -> None:
        context = self._config.context
        self._began_at = position.iteration
        self._epoch, self._iter, self._is_validated = (
            position.epoch,
            position.iteration,
            position.is_validated,
        )
        self.metrics: Mapping[str, float] = position.metrics
        """Metrics of the last validation by our names, and the mean loss up to it."""
        self._metrics = RunningMetrics.at(
            position, rank=context.rank, world_size=context.world_size
        )

    @property
    def speed(self) -> SpeedMeter:
        """Speed of the training so far, on this rank."""
        return self._metrics.speed

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def iter(self) -> int:
        return self._iter

    @property
    def max_epochs(self) -> int:
        """The number of epochs; 1 if the schedule counts iterations, as in mmengine."""
        return self._config.schedule.total if self._is_epochs else 1

    @property
    def max_iters(self) -> int:
        total = self._config.schedule.total
        return total * len(self.dataloader) if self._is_epochs else total

    def run(self) -> nn.Module:
        """Trains to the end.

        Raises StoppedError after it wrote a checkpoint on request. Raises StageError if a loss is
        NaN or infinite, or if the ranks differ.
        """
        self.runner.call_hook("before_train")
        if self._is_epochs:
            self._validate_interrupted_epoch()
            while self._epoch < self.max_epochs:
                self._run_epoch(end=(self._epoch + 1) * len(self.dataloader))
                self._epoch += 1
                self._validate_and_save(self._epoch)
        else:
            self._run_epoch(end=self.max_iters)
        self.runner.call_hook("after_train")
        model: nn.Module = self.runner.model
        return model

    def _run_epoch(self, *, end: int) -> None:
        """Trains until `end` iterations of the whole training are done."""
        self.runner.call_hook("before_train_epoch")
        self._validate_if_due()  # after a stop between an update and its validation
        self.runner.model.train()
        self.dataloader.sampler.first_batch = self._iter
        batches = iter(self.dataloader) if self._iter < end else iter(())
        while self._iter < end:
            self._update(batches, is_last=self._iter + 1 == end)
            self._validate_if_due()
        self.runner.call_hook("after_train_epoch")

    def _update(self, batches: Iterator[Any], *, is_last: bool) -> None:
        """Makes an update, reports it, and then saves or stops if asked to."""
        clock = self._config.clock
        began_s = clock()
        batch = next(batches)
        waited_s = clock() - began_s
        lr = max(group["lr"] for group in self.runner.optim_wrapper.param_groups)
        self._step(batch)
        action = self._coordinator.after(self._iter)
        # Includes the coordinator's time, because the ranks on GPUs wait there until their updates
        # are done. Excludes the writing of checkpoints.
        self._metrics.speed.add(trained_s=clock() - began_s, waited_s=waited_s)
        if self._iter % EMIT_EVERY == 0 or is_last:
            self._events.report_iteration(
                self._iter, self._means(), lr=lr, speed=self._metrics.speed
            )
        # The validation that is next writes a checkpoint too, and that checkpoint has a score.
        is_validation_next = self._is_val_due() and self._config.schedule.keep_best > 0
        if action is Action.STOP or not is_validation_next:
            self._save_or_stop(action)

    def _step(self, batch: Any) -> None:
        """Trains on `batch`, with random numbers that depend only on (seed, iteration, rank)."""
        runner, context = self.runner, self._config.context
        in_epoch = self._iter - self._epoch * len(self.dataloader)
        seed_all(seeds(Stream.UPDATES, context.seed, self._iter, context.rank))
        runner.call_hook("before_train_iter", batch_idx=in_epoch, data_batch=batch)
        outputs = runner.model.train_step(batch, optim_wrapper=runner.optim_wrapper)
        runner.call_hook("after_train_iter", batch_idx=in_epoch, data_batch=batch, outputs=outputs)
        self._iter += 1
        self._is_validated = False
        self._metrics.add(self._iter, outputs)
        if self._iter == self._began_at + 1:
            check_equal_on_ranks(runner.model, when="after the first update")

    def _means(self) -> dict[str, float]:
        """Means of the losses since the last line, and the norm of the last gradient if gradients
        are clipped."""
        means = self._metrics.read()
        if self.runner.optim_wrapper.clip_grad_kwargs is not None:
            means["grad_norm"] = float(
                self.runner.message_hub.get_scalar("train/grad_norm").current()
            )
        # Drops a norm that is not finite: the loss scaler of fp16 begins with gradients that
        # overflow. The losses are already checked.
        return {name: value for name, value in means.items() if math.isfinite(value)}

    def _save_or_stop(self, action: Action) -> None:
        save_or_stop(
            action,
            self._config.context,
            write=self._write_checkpoint,
            last_checkpoint=lambda: f"the last checkpoint is after {self._iter} iterations",
        )

    def _is_val_due(self) -> bool:
        """Whether a validation is due after this iteration. Always false if epochs are counted."""
        return (
            not self._is_epochs and self._iter > 0 and self._config.schedule.is_val_due(self._iter)
        )

    def _validate_interrupted_epoch(self) -> None:
        """Validates an epoch that an earlier attempt finished training but did not validate."""
        is_between = self._iter == self._epoch * len(self.dataloader) > 0
        if is_between and not self._is_validated and self._config.schedule.is_val_due(self._epoch):
            self._validate_and_save(self._epoch)

    def _validate_if_due(self) -> None:
        if self._is_val_due() and not self._is_validated:
            self._validate_and_save(self._iter)
            self.runner.model.train()

    def _validate_and_save(self, done: int) -> None:
        """Validates after `done` epochs or iterations if that is due, and reports the result with a
        checkpoint if one is due."""
        schedule = self._config.schedule
        is_val_due = schedule.is_val_due(done)
        is_checkpoint_due = schedule.is_checkpoint_due(done, is_validated=is_val_due)
        if not is_val_due:
            if is_checkpoint_due:
                self._save_or_stop(Action.SAVE)
            return
        loss = self._validate()
        self._metrics.begin_anew()
        number = done if self._is_epochs else -(-done // schedule.val_every)
        directory = self._write_checkpoint() if is_checkpoint_due else None
        self._config.context.report({"epoch": number, "loss": loss, **self.metrics}, directory)

    def _validate(self) -> float:
        """Measures the model with rank 0's buffers and logs the result. Returns the mean loss since
        the last validation."""
        self._metrics.check()
        share_buffers(unwrapped(self.runner.model))
        loss = mean_over_ranks(self._metrics.mean_loss, self._device)
        self.metrics = {**self._config.metrics_of(self.runner.val_loop.run()), "loss": loss}
        self._is_validated = True
        self._events.report_validation(
            self._iter, loss=loss, metrics=self.metrics, speed=self._metrics.speed
        )
        return loss

    def _write_checkpoint(self) -> Path | None:
        """Writes a checkpoint to a new folder, which the caller reports. All ranks call it; ranks
        other than 0 get None."""
        self._metrics.check()
        self._check_weights()
        position = self._gathered()
        if self._config.context.rank != 0:
            return None
        name = f"iteration_{self._iter:07d}{'_validated' if self._is_validated else ''}"
        # Numbered, because the previous one may have the same iteration and still be uploading.
        self._num_written += 1
        directory = self._config.context.work_dir / "states" / str(self._num_written) / name
        save_state(self.runner, directory, position)
        return directory

    def _check_weights(self) -> None:
        """Raises StageError if a weight is NaN or infinite. The last gradient may have caused this
        even after a finite loss."""
        if not has_finite_weights(self.runner.model):
            raise StageError(
                f"the gradient and the weights are NaN or infinite at iteration {self._iter}: "
                "training diverged; lower `lr`, set `clip_grad`, or use `precision: fp32`"
            )

    def _gathered(self) -> Position:
        running = self._metrics
        return Position(
            epoch=self._epoch,
            iteration=self._iter,
            is_validated=self._is_validated,
            metrics=self.metrics if self._is_validated else {},
            num_samples=num_val_images(self.runner),
            loss_sums=gather_over_ranks(running.losses.sum),
            num_losses=running.num_losses,
            trained_s=running.speed.trained_s,
            waited_s=running.speed.waited_s,
        )
