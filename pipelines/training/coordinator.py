"""Decides when to write a checkpoint and when to stop: all ranks agree after each update."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Self

import torch
import torch.distributed as dist
from torch import Tensor

from orchestrator.contract import StageContext
from orchestrator.errors import StoppedError
from pipelines.training.intervals import CheckpointEvery


class Action(IntEnum):
    """What to do after an update; if ranks disagree, the greatest value wins."""

    NONE = 0
    SAVE = 1
    STOP = 2


@dataclass
class Coordinator:
    """Asks `should_stop` and, on rank 0, the clock, and agrees with the other ranks."""

    every: CheckpointEvery
    should_stop: Callable[[], bool]
    device: torch.device
    keep_best: int = 0
    clock: Callable[[], float] = time.monotonic
    """Time in seconds."""
    _saved_at_s: float | None = None
    _reductions: deque[ActionReduction] = field(default_factory=deque)

    def after(self, num_updates: int) -> Action:
        """What to do after `num_updates` updates in the whole training; every rank gets the same
        answer."""
        action = self._agreed(self._own())
        if (
            action is Action.NONE
            and self.every.steps is not None
            and num_updates % self.every.steps == 0
        ):
            return Action.SAVE
        return action

    def is_epoch_due(self, epoch: int, *, num_epochs: int) -> bool:
        """Whether to write a checkpoint at the end of `epoch`, counted from 1. Only then are there
        scores to rank it by."""
        if epoch == num_epochs:
            return True
        return self.keep_best > 0 if self.every.epochs is None else epoch % self.every.epochs == 0

    def _own(self) -> Action:
        if self.should_stop():
            return Action.STOP
        # Use only one clock: each other rank's clock would ask for its own checkpoint, an update
        # later.
        if self.every.minutes is None or _rank() != 0:
            return Action.NONE
        now_s = self.clock()
        if self._saved_at_s is None:
            self._saved_at_s = now_s
        if now_s - self._saved_at_s < self.every.minutes * 60:
            return Action.NONE
        self._saved_at_s = now_s
        return Action.SAVE

    def _agreed(self, own: Action) -> Action:
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return own
        self._reductions.append(ActionReduction.start(own, self.device))
        # On a GPU the result is read one update later: reading it now would make the host wait and
        # starve the GPU.
        is_behind = self.device.type == "cuda" and len(self._reductions) == 1
        return Action.NONE if is_behind else self._reductions.popleft().result()


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


@dataclass(frozen=True)
class ActionReduction:
    """The greatest action of all ranks after an update, while it is being reduced."""

    greatest: Tensor
    is_there: torch.cuda.Event | None
    """CUDA event that is recorded after `greatest` was copied to the host."""

    @classmethod
    def start(cls, own: Action, device: torch.device) -> Self:
        """Start the reduction; on a GPU this does not wait. All ranks call it."""
        action = torch.tensor(int(own), device=device)
        dist.all_reduce(action, op=dist.ReduceOp.MAX)
        if device.type != "cuda":
            return cls(action, None)
        on_host = torch.empty_like(action, device="cpu", pin_memory=True)
        on_host.copy_(action, non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record()
        return cls(on_host, copied)

    def result(self) -> Action:
        """Wait for the reduction and return the greatest action."""
        if self.is_there is not None:
            self.is_there.synchronize()
        return Action(int(self.greatest))


def save_or_stop(
    action: Action,
    context: StageContext,
    *,
    write: Callable[[], Path | None],
    last_checkpoint: Callable[[], str],
) -> None:
    """Write a checkpoint, or write one and stop, as `action` says. All ranks call it.

    `write` returns the folder of a new checkpoint, or None on ranks other than 0. `last_checkpoint`
    describes the last written checkpoint. For STOP, raises StoppedError after the checkpoint was
    handed over.
    """
    if action is Action.NONE:
        return
    directory = write()
    if directory is not None:
        context.save(directory)
    if action is Action.STOP:
        raise StoppedError(f"stopped as requested; {last_checkpoint()}")
