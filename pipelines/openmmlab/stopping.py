"""Checks during a validation whether to stop. Validating a large data set can take longer than the
notice that a machine gives before it leaves."""

from __future__ import annotations

from collections.abc import Callable

import torch

from orchestrator.contract import StageContext
from pipelines.openmmlab.library import Hook, Runner
from pipelines.training.coordinator import Action, Coordinator
from pipelines.training.intervals import CheckpointEvery

ASK_EVERY = 10
"""Images of a worker between two checks. All workers wait for each other at a check."""


class StopInValidation(Hook):  # type: ignore[misc]  # untyped base
    """Calls `stop`, on all workers after the same image, once one of them is asked to stop."""

    def __init__(self, context: StageContext, stop: Callable[[], None]) -> None:
        self._world_size = context.world_size
        # Only STOP matters here. No checkpoints are due in between, because a validation does not
        # change the weights.
        self._control = Coordinator(
            CheckpointEvery(epochs=1), context.should_stop, torch.device(context.device)
        )
        self._stop = stop

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: object = None
    ) -> None:
        done = batch_idx + 1
        has_every_worker_one = done * self._world_size <= len(runner.val_dataloader.dataset)
        if done % ASK_EVERY == 0 and has_every_worker_one and self._control.after(0) is Action.STOP:
            self._stop()
