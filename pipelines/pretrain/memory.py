"""Explains a training step that does not fit the GPU's memory in terms of the job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from orchestrator.errors import JobError
from pipelines.pretrain.params import PretrainParams


@contextmanager
def explaining_memory(
    params: PretrainParams, *, world_size: int, device: torch.device
) -> Iterator[None]:
    """Turns torch.OutOfMemoryError into a JobError that names the fields to change."""
    try:
        yield
    except torch.OutOfMemoryError as err:
        raise explained(err, params, world_size=world_size, device=device) from err


def explained(
    err: torch.OutOfMemoryError, params: PretrainParams, *, world_size: int, device: torch.device
) -> JobError:
    """A JobError that says what did not fit, and each field that can be changed."""
    side = params.input_size
    num_images = params.micro_batch_size(world_size)
    reason = str(err).strip().partition("\n")[0]
    return JobError(
        f"{device}: out of memory with {num_images} images of {side} x {side} pixels at a time "
        f"(batch_size {params.batch_size}, workers {world_size}, accumulate {params.accumulate}, "
        f"precision {params.precision}); {'; '.join(_remedies(params))}. {reason}"
    )


def _remedies(params: PretrainParams) -> list[str]:
    """Remedies, those that keep the recipe first."""
    remedies = [
        (
            f"raise accumulate to {2 * params.accumulate} or resources.workers: the recipe stays "
            "the same"
        )
    ]
    if not params.activation_checkpointing:
        remedies.append("set activation_checkpointing: true, which takes a third more time")
    if params.precision == "fp32":
        remedies.append("set precision: bf16")
    return [*remedies, "or lower batch_size or img_size"]
