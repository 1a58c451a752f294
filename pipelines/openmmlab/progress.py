"""The hooks through which mmengine's Runner tells a stage's context how far it is."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from orchestrator.contract import Event, StageContext
from orchestrator.errors import StageError
from pipelines.openmmlab.library import Hook, Runner
from pipelines.openmmlab.state import Position, save_state

EMIT_EVERY = 10
"""Iterations between two lines; each costs a GPU one synchronisation."""
LOADING, LEARNING = 0, 1
"""Phases of an iteration, seeded apart: starting a loader draws a number too."""


@dataclass(frozen=True)
class Schedule:
    """How long to train, in epochs or iterations, and at which of them to validate and to save."""

    unit: Literal["epoch", "iteration"]
    total: int
    val_every: int
    checkpoint_every: int

    def is_val_due(self, done: int) -> bool:
        return done % self.val_every == 0 or done == self.total

    def is_checkpoint_due(self, done: int) -> bool:
        return done % self.checkpoint_every == 0 or done == self.total


class ProgressHook(Hook):  # type: ignore[misc]  # untyped base
    """Emits lines, reports metrics and checkpoints, and seeds loading and learning of each iteration.

    Seeding by (seed, rank, phase, iteration) makes the random numbers of an iteration independent of what ran before:
    a resumed run draws what an uninterrupted one would have, and how often is validated changes nothing.
    """

    priority = "VERY_LOW"  # after the learning rate has been stepped, as mmengine's own checkpoints

    def __init__(
        self,
        context: StageContext,
        schedule: Schedule,
        metrics_of: Callable[[Mapping[str, float]], Mapping[str, float]],
    ) -> None:
        self.metrics: Mapping[str, float] = {}
        """Of the last validation, by our names."""
        self._context = context
        self._schedule = schedule
        self._metrics_of = metrics_of
        self._loss: Tensor | None = None

    def before_train(self, runner: Runner) -> None:
        self._seed(LOADING, runner.iter)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None) -> None:
        self._seed(LEARNING, runner.iter)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: Mapping[str, Any] | None = None
    ) -> None:
        assert outputs is not None
        self._loss = outputs["loss"].detach()
        iteration = runner.iter + 1
        is_checkpoint = self._schedule.unit == "iteration" and self._is_only_checkpoint_due(iteration)
        if iteration % EMIT_EVERY == 0 or iteration == runner.max_iters or is_checkpoint:
            self._emit(runner, iteration)
        if is_checkpoint:
            self._report(runner, epoch=0, iteration=iteration)
        self._seed(LOADING, iteration)

    def after_train_epoch(self, runner: Runner) -> None:
        epoch = runner.epoch + 1
        if self._schedule.unit == "epoch" and self._is_only_checkpoint_due(epoch):
            self._report(runner, epoch=epoch, iteration=runner.iter)

    def after_val_epoch(self, runner: Runner, metrics: Mapping[str, float] | None = None) -> None:
        assert metrics is not None
        self.metrics = self._metrics_of(metrics)
        epoch = runner.epoch if self._schedule.unit == "epoch" else 0
        self._emit(runner, runner.iter, self.metrics)
        self._report(runner, epoch=epoch, iteration=runner.iter, metrics=self.metrics)
        self._seed(LOADING, runner.iter)

    def _is_only_checkpoint_due(self, done: int) -> bool:
        return self._schedule.is_checkpoint_due(done) and not self._schedule.is_val_due(done)

    def _report(
        self, runner: Runner, *, epoch: int, iteration: int, metrics: Mapping[str, float] | None = None
    ) -> None:
        """Hand over metrics, and rank 0's checkpoint where one is due."""
        loss = self._finite_loss(iteration)
        position = Position(epoch, iteration, metrics or {}, num_val_images(runner))
        is_epoch = self._schedule.unit == "epoch"
        done = epoch if is_epoch else iteration
        saved = None
        if self._context.rank == 0 and self._schedule.is_checkpoint_due(done):
            saved = self._context.work_dir / "states" / str(done)
            save_state(runner, saved, position)
        number = done if is_epoch else math.ceil(done / self._schedule.val_every)
        self._context.report({"epoch": number, "loss": loss, **position.metrics}, saved)

    def _emit(self, runner: Runner, iteration: int, metrics: Mapping[str, float] | None = None) -> None:
        loss = self._finite_loss(iteration)
        if self._context.rank != 0:
            return
        schedule, max_iters = self._schedule, runner.max_iters
        done = iteration * schedule.total / max_iters
        where = f"epoch {math.ceil(done)}/{schedule.total} " if schedule.unit == "epoch" else ""
        values = {"loss": loss, **(metrics or {})}
        text = " ".join(f"{name} {value:.4g}" for name, value in values.items())
        event = Event(f"{where}iteration {iteration}/{max_iters} {text}", done, schedule.total, values)
        self._context.emit(event)

    def _seed(self, phase: int, iteration: int) -> None:
        sequence = np.random.SeedSequence([self._context.seed, self._context.rank, phase, iteration])
        seed = int(sequence.generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)

    def _finite_loss(self, iteration: int) -> float:
        """The loss of the last iteration; read seldom, since it makes a GPU wait."""
        assert self._loss is not None
        loss = float(self._loss)
        if math.isfinite(loss):
            return loss
        raise StageError(
            f"the loss is {loss} at iteration {iteration}: training diverged; lower `lr`, set `clip_grad`, or use "
            "`precision: fp32`"
        )


class ValidationHook(Hook):  # type: ignore[misc]  # untyped base
    """Tells how far the evaluation of a finished model is, by the images of rank 0's share."""

    def __init__(self, context: StageContext) -> None:
        self._context = context

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: object = None) -> None:
        done, total = batch_idx + 1, len(runner.val_dataloader)
        if self._context.rank == 0 and (done % EMIT_EVERY == 0 or done == total):
            self._context.emit(Event(f"image {done}/{total}", done, total))


def num_val_images(runner: Runner) -> int:
    return len(runner.val_dataloader.dataset)
