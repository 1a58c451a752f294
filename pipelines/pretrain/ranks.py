"""What the ranks of a group tell each other, alone each its argument; and how they leave it."""

from __future__ import annotations

import inspect
import sys
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from pipelines.imagenet.broken import BrokenImages

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


def share_broken(broken: BrokenImages) -> None:
    """Every rank comes to know the broken images of all, so that all of them stop at the same limit."""
    for paths in gather_over_ranks(broken.paths):
        broken.add(paths)


def let_group_go() -> None:
    """Leave the process group to those who made it: once they destroy it, its threads end too.

    DistributedDataParallel imports torch.distributed.nn.functional, whose functions then hold the group of that moment
    as a default, for the life of the process. Its threads live as long, and one of them that is about to free a tensor
    when the interpreter ends aborts the process. None stands for the same group.
    """
    module = sys.modules.get("torch.distributed.nn.functional")
    if module is None or not dist.is_initialized():
        return
    for _, function in inspect.getmembers(module, inspect.isfunction):
        defaults = function.__defaults__ or ()
        function.__defaults__ = tuple(None if value is dist.group.WORLD else value for value in defaults) or None
