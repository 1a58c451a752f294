"""Progress reports of a running training (loss and its parts, learning rate, speed, remaining
time), and its schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

import torch
from torch import Tensor

from orchestrator.contract import Event, StageContext
from orchestrator.errors import DivergedError
from pipelines.openmmlab.library import Hook, Runner
from pipelines.openmmlab.state import Position
from pipelines.training.divergence import Losses, NonFiniteLossError
from pipelines.training.intervals import CheckpointEvery
from pipelines.training.speed import SpeedMeter

EMIT_EVERY = 10
"""Iterations between two log lines; each line costs a GPU one synchronisation."""


@dataclass(frozen=True)
class TrainingSchedule:
    """The length of a training in epochs or iterations, and when it validates and writes
    checkpoints."""

    unit: Literal["epoch", "iteration"]
    total: int
    val_every: int
    checkpoint_every: CheckpointEvery
    keep_best: int
    """Number of checkpoints with the best scores to keep. From 1 on, each validation ends with a
    checkpoint."""

    def is_val_due(self, done: int) -> bool:
        return done % self.val_every == 0 or done == self.total

    def is_checkpoint_due(self, done: int, *, is_validated: bool) -> bool:
        """Whether to write a checkpoint after `done` epochs or iterations, not counting those due
        by steps or minutes."""
        if done == self.total or (is_validated and self.keep_best > 0):
            return True
        every = self.checkpoint_every.epochs
        return self.unit == "epoch" and every is not None and done % every == 0


@dataclass
class RunningMetrics:
    """Measurements of the iterations since the last validation, on this rank. Reads from the device
    once per log line."""

    losses: Losses
    num_losses: int
    speed: SpeedMeter
    _parts: dict[str, Tensor] = field(default_factory=dict)
    """Sums over the iterations since the last line."""
    _num_parts: int = 0

    @classmethod
    def at(cls, position: Position, *, rank: int, world_size: int) -> RunningMetrics:
        """The metrics with which a training continues from `position`."""
        return cls(
            Losses(position.loss_sum_of(rank, world_size=world_size)),
            position.num_losses,
            SpeedMeter(position.trained_s, position.waited_s),
        )

    def add(self, iteration: int, outputs: Mapping[str, Tensor]) -> None:
        """Adds an iteration. In `outputs`, `loss` is the sum of the losses; the other values are
        its parts and scores."""
        self.losses.add(iteration, outputs["loss"].detach())
        self.num_losses += 1
        self._num_parts += 1
        for name, value in outputs.items():
            self._parts[name] = self._parts.get(name, 0) + value.detach().float()

    def read(self) -> dict[str, float]:
        """Means since the last line, `loss` first. Raises DivergedError if a loss is NaN or
        infinite."""
        self.check()
        values = (
            (torch.stack(list(self._parts.values())) / self._num_parts).tolist()
            if self._parts
            else []
        )
        means = dict(zip(self._parts, values, strict=True))
        self._parts.clear()
        self._num_parts = 0
        return {"loss": means.pop("loss"), **means} if means else {}

    def check(self) -> None:
        """Raises DivergedError for the first loss that is NaN or infinite."""
        try:
            self.losses.read()
        except NonFiniteLossError as err:
            raise DivergedError(
                f"the loss is {err.loss} at iteration {err.step}: training diverged; lower `lr`, "
                "set `clip_grad`, or "
                "use `precision: fp32`"
            ) from err

    @property
    def mean_loss(self) -> float:
        """Mean loss of this rank over the iterations since the last validation that were read."""
        return self.losses.sum / max(1, self.num_losses)

    def begin_anew(self) -> None:
        """Resets the losses after a validation."""
        self.losses, self.num_losses = Losses(0.0), 0


@dataclass(frozen=True)
class EventWriter:
    """Emits the measurements of rank 0 as Events."""

    context: StageContext
    schedule: TrainingSchedule
    max_iters: int
    batch_size: int
    """Images per iteration over all workers."""

    def report_iteration(
        self, iteration: int, means: Mapping[str, float], *, lr: float, speed: SpeedMeter
    ) -> None:
        """Emits a line. `means` holds the loss and its parts, and the gradient norm if gradients
        are clipped."""
        left_s = speed.s_per_iteration * (self.max_iters - iteration)
        values = {
            **means,
            "lr": lr,
            "images_per_s": self.batch_size / max(speed.s_per_iteration, 1e-9),
            "data_wait": speed.data_wait,
            "eta_s": left_s,
        }
        shown = f"loss {means['loss']:.4g} lr {lr:.3g} eta {timedelta(seconds=round(left_s))}"
        self._emit(iteration, shown, values)

    def report_validation(
        self, iteration: int, *, loss: float, metrics: Mapping[str, float], speed: SpeedMeter
    ) -> None:
        values = {"loss": loss, **metrics}
        shown = " ".join(f"{name} {value:.4g}" for name, value in values.items())
        images_per_s = self.batch_size / speed.s_per_iteration if speed.num_iterations else 0.0
        more = {"images_per_s": images_per_s, "data_wait": speed.data_wait}
        self._emit(iteration, shown, {**values, **more})

    def report_resumption(self, iteration: int) -> None:
        """Readers of the curves cut there what is trained again."""
        self._emit(iteration, "resuming", {})

    def _emit(self, iteration: int, shown: str, values: Mapping[str, float]) -> None:
        if self.context.rank != 0:
            return
        done = iteration * self.schedule.total / self.max_iters
        is_epoch = self.schedule.unit == "epoch"
        where = f"epoch {math.ceil(done)}/{self.schedule.total} " if is_epoch else ""
        text = f"{where}iteration {iteration}/{self.max_iters} {shown}"
        self.context.emit(Event(text, done, self.schedule.total, values))


class ValidationHook(Hook):  # type: ignore[misc]  # untyped base
    """Reports the progress of a finished model's evaluation, by the images of rank 0's share."""

    def __init__(self, context: StageContext) -> None:
        self._context = context

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: object = None
    ) -> None:
        done, total = batch_idx + 1, len(runner.val_dataloader)
        if self._context.rank == 0 and (done % EMIT_EVERY == 0 or done == total):
            self._context.emit(Event(f"image {done}/{total}", done, total))


def num_val_images(runner: Runner) -> int:
    return len(runner.val_dataloader.dataset)
