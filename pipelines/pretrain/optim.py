"""AdamW with the recipe's decay exclusions, and its learning rate as a pure function of the update
number."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch.optim import AdamW, Optimizer

from cat_model.model import Cat
from pipelines.pretrain.params import PretrainParams


@dataclass(frozen=True)
class LrSchedule:
    """Linear warm-up, then a cosine over all updates, including the warm-up.

    As in the reference, the cosine does not restart after the warm-up, so the rate steps down a
    little there (to 0.989 of the peak with 20 of 300 epochs). Also as in the reference, each update
    uses the position of the previous one.
    """

    first_lr: float
    peak_lr: float
    final_lr: float
    num_warmup_updates: int
    num_updates: int

    def lr(self, update: int) -> float:
        """The learning rate of `update`, counted from 0."""
        position = max(update - 1, 0)
        if position < self.num_warmup_updates:
            return (
                self.first_lr + (self.peak_lr - self.first_lr) * position / self.num_warmup_updates
            )
        cosine = math.cos(math.pi * position / self.num_updates)
        return self.final_lr + (self.peak_lr - self.final_lr) * (1 + cosine) / 2


def make_schedule(params: PretrainParams, *, updates_per_epoch: int) -> LrSchedule:
    """The recipe's schedule; a warm-up longer than the run is shortened to the run."""
    return LrSchedule(
        first_lr=params.first_lr,
        peak_lr=params.peak_lr,
        final_lr=params.final_lr,
        num_warmup_updates=min(params.warmup_epochs, params.epochs) * updates_per_epoch,
        num_updates=params.epochs * updates_per_epoch,
    )


def make_optimizer(model: Cat, params: PretrainParams) -> AdamW:
    """AdamW that decays matrices only: not 1-D parameters, biases, position embeddings or bias
    tables.

    If `layer_decay` is not 1, each group has an `lr_scale`. Fused kernels exist for CPUs and for
    CUDA; without them torch chooses between one kernel per list of tensors and a loop.
    """
    return AdamW(
        _groups(model, params),
        lr=params.first_lr,
        betas=params.betas,
        eps=params.eps,
        fused=params.fused_optimizer or None,
    )


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Set every group's learning rate to `lr`, times its own scale under layer-wise decay."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def _groups(model: Cat, params: PretrainParams) -> list[dict[str, Any]]:
    exclusions = model.no_weight_decay()
    if params.layer_decay == 1:
        plain: list[dict[str, Any]] = param_groups_weight_decay(
            model, params.weight_decay, no_weight_decay_list=exclusions
        )
        return plain
    layered: list[dict[str, Any]] = param_groups_layer_decay(
        model, params.weight_decay, no_weight_decay_list=exclusions, layer_decay=params.layer_decay
    )
    return layered
