"""What the ranks of a group exchange; without a group, each returns its argument. And how they
leave it."""

from __future__ import annotations

import hashlib
import inspect
import sys
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from orchestrator.errors import StageError

T = TypeVar("T")


def sum_over_ranks(values: Tensor, device: torch.device) -> Tensor:
    if not dist.is_initialized():
        return values
    values = values.to(device)
    dist.all_reduce(values)
    return values


def mean_over_ranks(value: float, device: torch.device) -> float:
    num_ranks = dist.get_world_size() if dist.is_initialized() else 1
    return float(sum_over_ranks(torch.tensor(value, dtype=torch.float64), device)) / num_ranks


def any_over_ranks(*, claim: bool, device: torch.device) -> bool:
    return bool(sum_over_ranks(torch.tensor(float(claim)), device) > 0)


def gather_over_ranks(value: T) -> tuple[T, ...]:
    """The value of each rank, in their order, on all of them."""
    if not dist.is_initialized():
        return (value,)
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return tuple(values)


def let_group_go() -> None:
    """Leave the process group to those who made it: once they destroy it, its threads end too.

    DistributedDataParallel imports torch.distributed.nn.functional, whose functions then hold the
    group of that moment as a default, for the life of the process. Its threads live as long, and
    one of them that is about to free a tensor when the interpreter ends aborts the process. None
    means the same group.
    """
    module = sys.modules.get("torch.distributed.nn.functional")
    if module is None or not dist.is_initialized():
        return
    for _, function in inspect.getmembers(module, inspect.isfunction):
        defaults = function.__defaults__ or ()
        function.__defaults__ = (
            tuple(None if value is dist.group.WORLD else value for value in defaults) or None
        )


def check_equal_on_ranks(model: nn.Module, *, when: str) -> None:
    """Raises StageError unless all ranks have the same parameters, bit by bit: the proof that they
    train together."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    digests = gather_over_ranks(digest.hexdigest())
    if len(set(digests)) > 1:
        raise StageError(
            f"the parameters differ between the {len(digests)} workers {when}: their gradients "
            "were not shared; check that the workers belong to one process group"
        )


def share_buffers(model: nn.Module) -> None:
    """Give all ranks the running statistics of rank 0, which are those that are saved; BatchNorm
    has its own on each.

    They are of no use to training, so that this may be done at any time.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    for buffer in model.buffers():
        dist.broadcast(buffer, 0)
