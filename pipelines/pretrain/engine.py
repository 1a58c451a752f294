"""One epoch of training and one pass of evaluation, on this rank and together with the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from timm.data import Mixup
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from orchestrator.artifact import Metric
from orchestrator.errors import DataError, StageError
from pipelines.imagenet.broken import BrokenImages
from pipelines.imagenet.dataset import Batch
from pipelines.pretrain.optim import Schedule, set_lr
from pipelines.pretrain.params import PretrainParams

WINDOW = 50
"""Updates between looks at the loss: each look waits for the GPU."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

OnWindow = Callable[[int, float], None]
"""Told the updates done in this epoch and the mean loss of the last WINDOW."""


@dataclass(frozen=True)
class Scores:
    """Shares in % of `num_samples` images, over all ranks, whose class is the best guess, or among the best five."""

    top1: float
    top5: float
    num_samples: int

    def as_metrics(self) -> tuple[Metric, ...]:
        """In %, on val."""
        return tuple(
            Metric(name=name, value=value, num_samples=self.num_samples)
            for name, value in (("top1", self.top1), ("top5", self.top5))
        )


class Precision:
    """Where and in which arithmetic the forward pass runs."""

    def __init__(self, precision: str, device: torch.device) -> None:
        self.device = device
        self._dtype = DTYPES[precision]

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self._dtype, enabled=self._dtype != torch.float32)

    def scaler(self) -> GradScaler:
        """Scales the loss in fp16, whose smallest numbers gradients fall below; passes through otherwise."""
        return GradScaler(self.device.type, enabled=self._dtype == torch.float16)


class Criterion:
    """The loss of a training batch: mixed with soft targets, or plain with smoothed labels."""

    def __init__(self, params: PretrainParams, *, num_classes: int) -> None:
        self._mixup = _mixup(params, num_classes) if params.is_mixing else None
        self._mixed_loss = SoftTargetCrossEntropy()
        self._plain_loss = LabelSmoothingCrossEntropy(params.label_smoothing)

    def __call__(self, model: nn.Module, x_BCHW: Tensor, labels_B: Tensor) -> Tensor:  # noqa: N803
        if self._mixup is None:
            return self._loss(self._plain_loss, model(x_BCHW), labels_B)
        x_BCHW, targets_BK = self._mixup(x_BCHW, labels_B)  # noqa: N806
        return self._loss(self._mixed_loss, model(x_BCHW), targets_BK)

    @staticmethod
    def _loss(loss: nn.Module, logits_BK: Tensor, targets: Tensor) -> Tensor:  # noqa: N803
        value: Tensor = loss(logits_BK.float(), targets)
        return value


@dataclass(frozen=True)
class Trainer:
    """What updates a model; `model` is wrapped for gradient exchange where there are several ranks."""

    model: nn.Module
    optimizer: Optimizer
    scaler: GradScaler
    schedule: Schedule
    criterion: Criterion
    precision: Precision
    clip_grad: float | None

    def train_epoch(self, loader: Any, epoch: int, broken: BrokenImages, on_window: OnWindow) -> float:
        """Mean loss over all updates and ranks of `epoch`, counted from 0.

        Raises StageError, which names the step, when the loss stops being a number, DataError for too many broken
        images.
        """
        self.model.train()
        window: list[Tensor] = []
        total = 0.0
        for step, batch in enumerate(loader, 1):
            broken.add(batch.broken)
            window.append(self._update(_checked(batch), epoch * len(loader) + step - 1))
            if len(window) == WINDOW or step == len(loader):
                losses = self._read(window, epoch, first_step=step - len(window) + 1)
                total += sum(losses)
                on_window(step, sum(losses) / len(losses))
                window.clear()
        _share(broken)
        return _mean_over_ranks(total / len(loader), self.precision.device)

    def _update(self, batch: Batch, update: int) -> Tensor:
        device = self.precision.device
        x_BCHW = batch.images_BCHW.to(device, non_blocking=True)  # noqa: N806
        labels_B = batch.labels_B.to(device, non_blocking=True)  # noqa: N806
        set_lr(self.optimizer, self.schedule.lr(update))
        with self.precision.autocast():
            loss = self.criterion(self.model, x_BCHW, labels_B)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach()

    def _read(self, window: list[Tensor], epoch: int, *, first_step: int) -> list[float]:
        losses: list[float] = torch.stack(window).tolist()
        for step, loss in enumerate(losses, first_step):
            if not math.isfinite(loss):
                lr = self.optimizer.param_groups[0]["lr"]
                raise StageError(
                    f"epoch {epoch + 1}, step {step}: the loss is {loss} at a learning rate of {lr:.3g}; "
                    "lower lr, or lengthen warmup_epochs, or set clip_grad, or use precision: fp32"
                )
        return losses


@torch.no_grad()
def evaluate(model: nn.Module, loader: Any, precision: Precision, broken: BrokenImages) -> Scores:
    """Scores over the images of all ranks' loaders that decode, each counted once."""
    model.eval()
    counts_3 = torch.zeros(3, dtype=torch.float64)  # top-1 hits, top-5 hits, images
    for batch in _decodable(loader, broken):
        with precision.autocast():
            logits_BK: Tensor = model(batch.images_BCHW.to(precision.device, non_blocking=True))  # noqa: N806
        counts_3 += _counts(logits_BK.float(), batch.labels_B.to(precision.device)).cpu()
    _share(broken)
    top1, top5, num_samples = _sum_over_ranks(counts_3, precision.device).tolist()
    if num_samples == 0:
        raise DataError("no image of val decodes; see to the files below val/")
    return Scores(100 * top1 / num_samples, 100 * top5 / num_samples, int(num_samples))


def _mixup(params: PretrainParams, num_classes: int) -> Mixup:
    return Mixup(
        mixup_alpha=params.mixup,
        cutmix_alpha=params.cutmix,
        prob=params.mixup_prob,
        switch_prob=params.mixup_switch_prob,
        label_smoothing=params.label_smoothing,
        num_classes=num_classes,
    )


def _checked(batch: Batch) -> Batch:
    if len(batch.labels_B) == 0:
        raise DataError("no image of train decodes; see to the files below train/")
    return batch


def _decodable(loader: Any, broken: BrokenImages) -> Iterator[Batch]:
    for batch in loader:
        broken.add(batch.broken)
        if len(batch.labels_B):
            yield batch


def _counts(logits_BK: Tensor, labels_B: Tensor) -> Tensor:  # noqa: N803
    best_B5 = logits_BK.topk(min(5, logits_BK.shape[1])).indices  # noqa: N806
    hits_B5 = best_B5 == labels_B[:, None]  # noqa: N806
    num_samples = torch.tensor(len(labels_B), device=logits_BK.device)
    return torch.stack([hits_B5[:, 0].sum(), hits_B5.sum(), num_samples])


def _share(broken: BrokenImages) -> None:
    """Every rank comes to know the broken images of all, so that all of them stop at the same limit."""
    if not dist.is_initialized():
        return
    paths_of_ranks: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(paths_of_ranks, broken.paths)
    broken.add(path for paths in paths_of_ranks for path in paths)


def _sum_over_ranks(values: Tensor, device: torch.device) -> Tensor:
    if not dist.is_initialized():
        return values
    values = values.to(device)
    dist.all_reduce(values)
    return values


def _mean_over_ranks(value: float, device: torch.device) -> float:
    num_ranks = dist.get_world_size() if dist.is_initialized() else 1
    return float(_sum_over_ranks(torch.tensor(value, dtype=torch.float64), device)) / num_ranks
