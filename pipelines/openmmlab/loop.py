"""The training loop of mmengine's Runner for a stage: goes on between any two updates, saves, validates, stops."""

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
from orchestrator.errors import StageError, StoppedError
from pipelines.openmmlab.library import BaseLoop, Runner
from pipelines.openmmlab.progress import (
    EMIT_EVERY,
    EventWriter,
    RunningMetrics,
    Speed,
    TrainingSchedule,
    num_val_images,
)
from pipelines.openmmlab.state import Position, save_state, unwrapped
from pipelines.openmmlab.stopping import StopInValidation
from pipelines.training.coordinator import Action, Coordinator
from pipelines.training.distributed import check_equal_on_ranks, gather_over_ranks, mean_over_ranks, share_buffers
from pipelines.training.seeding import Stream, seed_all, seeds


@dataclass(frozen=True)
class LoopConfig:
    """What a stage asks of the loop."""

    context: StageContext
    schedule: TrainingSchedule
    metrics_of: Callable[[Mapping[str, float]], Mapping[str, float]]
    """The evaluator's values -> ours; raises where there is no number."""
    clock: Callable[[], float] = time.monotonic
    """In seconds."""


class StageLoop(BaseLoop):  # type: ignore[misc]  # untyped base
    """Epochs, or iterations as one long epoch, with validations in between.

    mmengine's own loops begin at the start of an epoch, and its hooks for checkpoints cannot be told to stop.
    """

    stop_training = False

    def __init__(self, runner: Runner, dataloader: Mapping[str, Any], plan: LoopConfig) -> None:
        super().__init__(runner, dataloader)
        self._plan = plan
        self._is_epochs = plan.schedule.unit == "epoch"
        context, device = plan.context, torch.device(plan.context.device)
        self._device = device
        self._control = Coordinator(
            plan.schedule.checkpoint_every, context.should_stop, device, plan.schedule.keep_best
        )
        self._telling = EventWriter(
            context, plan.schedule, self.max_iters, self.dataloader.batch_size * context.world_size
        )
        runner.register_hook(StopInValidation(context, self._stop))
        self._num_written = 0
        self.begin_at(Position())

    def begin_at(self, position: Position) -> None:
        """Go on from there; the runner's weights and optimizer are of that position too."""
        context = self._plan.context
        self._began_at = position.iteration
        self._epoch, self._iter, self._is_validated = position.epoch, position.iteration, position.is_validated
        self.metrics: Mapping[str, float] = position.metrics
        """Metrics of the last validation, by our names, with the mean loss before it."""
        self._figures = RunningMetrics.at(position, rank=context.rank, world_size=context.world_size)

    @property
    def speed(self) -> Speed:
        """Speed of the training up to here, on this rank."""
        return self._figures.speed

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def iter(self) -> int:
        return self._iter

    @property
    def max_epochs(self) -> int:
        """1 when iterations are counted, as mmengine has it."""
        return self._plan.schedule.total if self._is_epochs else 1

    @property
    def max_iters(self) -> int:
        total = self._plan.schedule.total
        return total * len(self.dataloader) if self._is_epochs else total

    def run(self) -> nn.Module:
        """Train to the end.

        Raises StoppedError after a checkpoint, StageError for a loss that is no number and for ranks that differ.
        """
        self.runner.call_hook("before_train")
        if self._is_epochs:
            self._close_epoch()
            while self._epoch < self.max_epochs:
                self._run_epoch(end=(self._epoch + 1) * len(self.dataloader))
                self._epoch += 1
                self._close(self._epoch)
        else:
            self._run_epoch(end=self.max_iters)
        self.runner.call_hook("after_train")
        model: nn.Module = self.runner.model
        return model

    def _run_epoch(self, *, end: int) -> None:
        """Train until `end` iterations of the whole training are done."""
        self.runner.call_hook("before_train_epoch")
        self._close_iteration()  # stopped between an update and its validation
        self.runner.model.train()
        self.dataloader.sampler.first_batch = self._iter
        batches = iter(self.dataloader) if self._iter < end else iter(())
        while self._iter < end:
            self._update(batches, is_last=self._iter + 1 == end)
            self._close_iteration()
        self.runner.call_hook("after_train_epoch")

    def _update(self, batches: Iterator[Any], *, is_last: bool) -> None:
        """Make an update, tell of it, and do what is then demanded."""
        clock = self._plan.clock
        began_s = clock()
        batch = next(batches)
        waited_s = clock() - began_s
        lr = max(group["lr"] for group in self.runner.optim_wrapper.param_groups)
        self._step(batch)
        demand = self._control.after(self._iter)
        # With it, since a GPU's ranks wait there for their updates to be done; without the writing of checkpoints.
        self._figures.speed.add(trained_s=clock() - began_s, waited_s=waited_s)
        if self._iter % EMIT_EVERY == 0 or is_last:
            self._telling.tell_iteration(self._iter, self._means(), lr=lr, speed=self._figures.speed)
        self._obey(demand)

    def _step(self, batch: Any) -> None:
        """Train on `batch`, with random numbers that depend on (seed, iteration, rank) alone."""
        runner, context = self.runner, self._plan.context
        in_epoch = self._iter - self._epoch * len(self.dataloader)
        seed_all(seeds(Stream.UPDATES, context.seed, self._iter, context.rank))
        runner.call_hook("before_train_iter", batch_idx=in_epoch, data_batch=batch)
        outputs = runner.model.train_step(batch, optim_wrapper=runner.optim_wrapper)
        runner.call_hook("after_train_iter", batch_idx=in_epoch, data_batch=batch, outputs=outputs)
        self._iter += 1
        self._is_validated = False
        self._figures.add(self._iter, outputs)
        if self._iter == self._began_at + 1:
            check_equal_on_ranks(runner.model, when="after the first update")

    def _means(self) -> dict[str, float]:
        """Of the losses since the last line; and the norm of the last gradient, where gradients are clipped."""
        means = self._figures.read()
        if self.runner.optim_wrapper.clip_grad_kwargs is not None:
            means["grad_norm"] = float(self.runner.message_hub.get_scalar("train/grad_norm").current())
        # The loss scaler of fp16 begins with gradients that overflow; the losses are known to be numbers.
        return {name: value for name, value in means.items() if math.isfinite(value)}

    def _obey(self, demand: Action) -> None:
        if demand is Action.STOP:
            self._stop()
        # A validation writes one too, which then has a score.
        is_near = self._is_val_due() and self._plan.schedule.keep_best > 0
        if demand is Action.SAVE and not is_near:
            self._save()

    def _stop(self) -> None:
        self._save()
        raise StoppedError(f"stopped as asked; the last checkpoint stands after {self._iter} iterations")

    def _is_val_due(self) -> bool:
        """Whether this iteration, where iterations are counted, ends with a validation."""
        return not self._is_epochs and self._iter > 0 and self._plan.schedule.is_val_due(self._iter)

    def _close_epoch(self) -> None:
        """Validate after an epoch that ended in an earlier attempt, which stopped before its validation was done."""
        is_between = self._iter == self._epoch * len(self.dataloader) > 0
        if is_between and not self._is_validated and self._plan.schedule.is_val_due(self._epoch):
            self._close(self._epoch)

    def _close_iteration(self) -> None:
        if self._is_val_due() and not self._is_validated:
            self._close(self._iter)
            self.runner.model.train()

    def _close(self, done: int) -> None:
        """Validate after `done` epochs or iterations where that is due, tell, and hand over a checkpoint if it is."""
        schedule = self._plan.schedule
        is_val_due = schedule.is_val_due(done)
        is_checkpoint_due = schedule.is_checkpoint_due(done, is_validated=is_val_due)
        if not is_val_due:
            if is_checkpoint_due:
                self._save()
            return
        loss = self._validate()
        self._figures.begin_anew()
        number = done if self._is_epochs else -(-done // schedule.val_every)
        directory = self._written() if is_checkpoint_due else None
        self._plan.context.report({"epoch": number, "loss": loss, **self.metrics}, directory)

    def _validate(self) -> float:
        """Measure the model as rank 0 has it, and tell; returns the mean loss since the last time."""
        self._figures.check()
        share_buffers(unwrapped(self.runner.model))
        loss = mean_over_ranks(self._figures.mean_loss, self._device)
        self.metrics = {**self._plan.metrics_of(self.runner.val_loop.run()), "loss": loss}
        self._is_validated = True
        self._telling.tell_validation(self._iter, loss=loss, metrics=self.metrics, speed=self._figures.speed)
        return loss

    def _save(self) -> None:
        directory = self._written()
        if directory is not None:
            self._plan.context.save(directory)

    def _written(self) -> Path | None:
        """The folder of a new checkpoint, to be handed over; None on other ranks than 0. All ranks call it."""
        self._figures.check()
        self._check_weights()
        position = self._gathered()
        if self._plan.context.rank != 0:
            return None
        name = f"iteration_{self._iter:07d}{'_validated' if self._is_validated else ''}"
        # Numbered: the one before may be of the same iteration, and still on its way to the store.
        self._num_written += 1
        directory = self._plan.context.work_dir / "states" / str(self._num_written) / name
        save_state(self.runner, directory, position)
        return directory

    def _check_weights(self) -> None:
        """The last gradient may have spoilt them after a loss that was a number: nothing goes on from there."""
        if not nn.utils.get_total_norm(list(self.runner.model.parameters())).isfinite():
            raise StageError(
                f"the gradient was no number at iteration {self._iter}, and so are the weights: training diverged; "
                "lower `lr`, set `clip_grad`, or use `precision: fp32`"
            )

    def _gathered(self) -> Position:
        figures = self._figures
        return Position(
            epoch=self._epoch,
            iteration=self._iter,
            is_validated=self._is_validated,
            metrics=self.metrics if self._is_validated else {},
            num_samples=num_val_images(self.runner),
            loss_sums=gather_over_ranks(figures.losses.sum),
            num_losses=figures.num_losses,
            trained_s=figures.speed.trained_s,
            waited_s=figures.speed.waited_s,
        )
