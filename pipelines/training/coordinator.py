"""When a checkpoint is due, and when to stop: decided together by all ranks after each update."""

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
    """What to do after an update; of several ranks the greatest counts."""

    NONE = 0
    SAVE = 1
    STOP = 2


@dataclass
class Coordinator:
    """Asks `should_stop` and, on rank 0, the clock, and agrees with the others."""

    every: CheckpointEvery
    should_stop: Callable[[], bool]
    device: torch.device
    keep_best: int = 0
    clock: Callable[[], float] = time.monotonic
    """In seconds."""
    _saved_at_s: float | None = None
    _reductions: deque[ActionReduction] = field(default_factory=deque)

    def after(self, num_updates: int) -> Action:
        """What to do after `num_updates` updates of the whole training; every rank gets the same
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
        """Whether the end of `epoch`, counted from 1, writes a checkpoint: no other moment has
        scores to keep it by."""
        if epoch == num_epochs:
            return True
        return self.keep_best > 0 if self.every.epochs is None else epoch % self.every.epochs == 0

    def _own(self) -> Action:
        if self.should_stop():
            return Action.STOP
        # Only one clock: each of the others would ask for a checkpoint of its own, an update
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
        # A GPU's reduction is read an update later: to read this one now would keep it from being
        # fed.
        is_behind = self.device.type == "cuda" and len(self._reductions) == 1
        return Action.NONE if is_behind else self._reductions.popleft().result()


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


@dataclass(frozen=True)
class ActionReduction:
    """The greatest action of all ranks after an update, on its way to this one."""

    greatest: Tensor
    is_there: torch.cuda.Event | None
    """Recorded when `greatest` has been copied to the host."""

    @classmethod
    def start(cls, own: Action, device: torch.device) -> Self:
        """Returns at once on a GPU. All ranks call it."""
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
        """The greatest; waits for it."""
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
    """Do what `action` asks for. All ranks call it.

    `write` returns the folder of a new checkpoint, None on other ranks than 0; `last_checkpoint`
    says in words which one was written last. Raises StoppedError once the checkpoint is handed
    over, where the action is STOP.
    """
    if action is Action.NONE:
        return
    directory = write()
    if directory is not None:
        context.save(directory)
    if action is Action.STOP:
        raise StoppedError(f"stopped as requested; {last_checkpoint()}")
