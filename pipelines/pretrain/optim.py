"""AdamW with the recipe's decay exclusions, and its learning rate as a pure function of the update."""

from __future__ import annotations

import math
from dataclasses import dataclass

from timm.optim import param_groups_weight_decay
from torch.optim import AdamW, Optimizer

from cat_model.model import Cat
from pipelines.pretrain.params import PretrainParams


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then a cosine over all updates, those of the warm-up included.

    The cosine is not restarted after the warm-up, so the rate steps down a little there (to 0.989 of the peak with
    20 of 300 epochs), and each update uses its predecessor's place: both as in the reference.
    """

    first_lr: float
    peak_lr: float
    final_lr: float
    num_warmup_updates: int
    num_updates: int

    def lr(self, update: int) -> float:
        """The learning rate of `update`, counted from 0."""
        place = max(update - 1, 0)
        if place < self.num_warmup_updates:
            return self.first_lr + (self.peak_lr - self.first_lr) * place / self.num_warmup_updates
        cosine = math.cos(math.pi * place / self.num_updates)
        return self.final_lr + (self.peak_lr - self.final_lr) * (1 + cosine) / 2


def make_schedule(params: PretrainParams, *, updates_per_epoch: int) -> Schedule:
    """The recipe's schedule; a warm-up longer than the run is cut to the run."""
    return Schedule(
        first_lr=params.first_lr,
        peak_lr=params.peak_lr,
        final_lr=params.final_lr,
        num_warmup_updates=min(params.warmup_epochs, params.epochs) * updates_per_epoch,
        num_updates=params.epochs * updates_per_epoch,
    )


def make_optimizer(model: Cat, params: PretrainParams) -> AdamW:
    """AdamW that decays matrices only: no 1-D parameter, bias, position embedding or bias table."""
    groups = param_groups_weight_decay(model, params.weight_decay, no_weight_decay_list=model.no_weight_decay())
    return AdamW(groups, lr=params.first_lr, betas=(0.9, 0.999), eps=1e-8)


def set_lr(optimizer: Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
