"""What the workers of a training owe each other: equal parameters, and one set of running statistics."""

from __future__ import annotations

import hashlib

import torch
import torch.distributed as dist
from torch import nn

from orchestrator.errors import StageError
from pipelines.pretrain.ranks import gather_over_ranks


def check_equal_on_ranks(model: nn.Module, *, when: str) -> None:
    """Raises StageError unless all ranks have the same parameters, bit by bit: the proof that they train together."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    digests = gather_over_ranks(digest.hexdigest())
    if len(set(digests)) > 1:
        raise StageError(
            f"the parameters differ between the {len(digests)} workers {when}: their gradients were not shared; check "
            "that the workers are of one process group"
        )


def share_buffers(model: nn.Module) -> None:
    """Give all ranks the running statistics of rank 0, which are those that are saved; BatchNorm has its own on each.

    They are of no use to training, so that this may be done at any time.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    for buffer in model.buffers():
        dist.broadcast(buffer, 0)
