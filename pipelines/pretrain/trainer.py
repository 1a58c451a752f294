"""Makes one update of the weights from the parts of a batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from orchestrator.errors import DataError
from pipelines.imagenet.dataset import Batch
from pipelines.pretrain.criterion import Criterion
from pipelines.pretrain.optim import LrSchedule, set_lr
from pipelines.pretrain.precision import Precision
from pipelines.training.distributed import any_over_ranks


@dataclass(frozen=True)
class Trainer:
    """The objects that update a model; with several ranks, `model` is wrapped to exchange
    gradients."""

    model: nn.Module
    unwrapped: nn.Module
    """The network inside `model`."""
    ema: ModelEmaV3 | None
    """The average of its weights, if one is kept."""
    optimizer: Optimizer
    scaler: GradScaler
    schedule: LrSchedule
    criterion: Criterion
    precision: Precision
    augment: Callable[[Batch], Tensor]
    """A batch on the device -> its normalised images (B, C, H, W)."""
    clip_grad: float | None
    skips_non_finite: bool

    @property
    def evaluated(self) -> nn.Module:
        """The model that is evaluated and published."""
        return self.unwrapped if self.ema is None else self.ema.module

    def warm_up_ddp(self, x_BCHW: Tensor) -> None:
        """Run one forward and backward pass on `x_BCHW`, as large as a part, which only fixes the
        order of later sums over ranks.

        DistributedDataParallel lays out gradients again after its first backward pass. Three ranks
        or more sum an element in an order that depends on its position. Without this pass, the
        first update of a resumed training would differ from the same update of an uninterrupted
        one. All ranks call it.
        """
        if self.model is self.unwrapped:
            return
        self.model.train()
        with self.precision.autocast():
            logits_BK: Tensor = self.model(x_BCHW)
        logits_BK.float().sum().backward()  # type: ignore[no-untyped-call]
        self.optimizer.zero_grad(set_to_none=True)

    def update(self, micro_batches: Sequence[Batch], update: int) -> Tensor | None:
        """Make the update of this number, counted from 0; returns this rank's mean loss over
        `micro_batches`, on the device.

        None means that the update was skipped, on all ranks. Raises DataError for a part without
        images.
        """
        self.model.train()
        set_lr(self.optimizer, self.schedule.lr(update))
        self.optimizer.zero_grad(set_to_none=True)
        losses = [
            self._backward(micro_batch, micro_batches, is_last=number == len(micro_batches))
            for number, micro_batch in enumerate(micro_batches, 1)
        ]
        loss = torch.stack(losses).mean()
        if not self._step(loss):
            return None
        if self.ema is not None:
            self.ema.update(self.unwrapped, update)
        return loss

    def _backward(
        self, micro_batch: Batch, micro_batches: Sequence[Batch], *, is_last: bool
    ) -> Tensor:
        if len(micro_batch.labels_B) == 0:
            raise DataError("no image in train/ can be decoded; check the files")
        batch = micro_batch.to(self.precision.device)
        with self._exchange(is_due=is_last):
            with self.precision.autocast():
                loss = self.criterion(self.model, self.augment(batch), batch.labels_B)
            self.scaler.scale(loss / len(micro_batches)).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _exchange(self, *, is_due: bool) -> AbstractContextManager[Any]:
        """Context in which ranks exchange gradients only with the last part."""
        model: Any = self.model
        return contextlib.nullcontext() if is_due or model is self.unwrapped else model.no_sync()

    def _step(self, loss: Tensor) -> bool:
        """Update the weights; return whether they were updated."""
        self.scaler.unscale_(self.optimizer)
        if self.clip_grad is not None or self.skips_non_finite:
            limit = float("inf") if self.clip_grad is None else self.clip_grad
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
            if self.skips_non_finite and self._is_lost(loss, norm):
                self.scaler.update(self.scaler.get_scale())
                return False
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return True

    def _is_lost(self, loss: Tensor, norm: Tensor) -> bool:
        """Whether any rank's loss is NaN or infinite, or its gradient, unless the loss scaler
        handles that."""
        suspects = loss if self.scaler.is_enabled() else torch.stack([loss, norm])
        return any_over_ranks(
            claim=not bool(suspects.isfinite().all()), device=self.precision.device
        )
