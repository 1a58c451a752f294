"""Exchanges values between the ranks of a group, and releases the group. Without a group, each
function returns its argument."""

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
    """The values of all ranks, in rank order, on every rank."""
    if not dist.is_initialized():
        return (value,)
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return tuple(values)


def let_group_go() -> None:
    """Drop hidden references to the process group, so that its threads end when its owner destroys
    it.

    DistributedDataParallel imports torch.distributed.nn.functional, whose functions then hold the
    current group as a default argument until the process ends. The group's threads live as long. If
    such a thread frees a tensor while the interpreter exits, it aborts the process. A default of
    None means the same group.
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
    """Raises StageError unless all ranks have the same parameters, bit by bit, which proves that
    they train together."""
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
    """Copy the running statistics of rank 0, which are saved, to all ranks; BatchNorm keeps its own
    on each rank.

    Training does not use them, so this can be done at any time.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    for buffer in model.buffers():
        dist.broadcast(buffer, 0)
