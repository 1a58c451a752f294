"""Applies the operations drawn for a batch's images: each operation once per layer, to the images
that drew it."""

# Shapes: B images of a batch, N of them, C channels, H x W pixels.

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor

from pipelines.imagenet.batched.affine import affine
from pipelines.imagenet.batched.ops import AFFINE, FILTERS, POINT_TABLES
from pipelines.imagenet.batched.points import look_up
from pipelines.imagenet.drawn import BatchDraws

_CHUNKS = {True: 1, False: 128}
"""Images at a time. On a CPU (True) 1, because its caches hold one image. On other devices 128,
because an affine map then needs less than 700 MB."""


def apply_ops(
    images_BCHW: Tensor, draws: BatchDraws, *, fill: tuple[int, ...], interpolation: str
) -> Tensor:
    """The images after their operations, uint8 (B, C, H, W). Without operations this is the input
    itself, otherwise a new tensor."""
    if not draws.layers:
        return images_BCHW
    images_BCHW = images_BCHW.clone()
    fill_C = _constant(fill, images_BCHW.device)
    for name, indices_N, values_NV in _groups(
        draws, chunk=_CHUNKS[images_BCHW.device.type == "cpu"]
    ):
        chosen_NCHW = images_BCHW.index_select(0, indices_N)
        if name == AFFINE:
            done_NCHW = affine(chosen_NCHW, values_NV, fill_C=fill_C, interpolation=interpolation)
        elif name in POINT_TABLES:
            done_NCHW = look_up(chosen_NCHW, POINT_TABLES[name](chosen_NCHW, values_NV[:, 0]))
        else:
            done_NCHW = FILTERS[name](chosen_NCHW, values_NV[:, 0])
        images_BCHW.index_copy_(0, indices_N, done_NCHW)
    return images_BCHW


def normalise(images_BCHW: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """float32 (B, C, H, W), contiguous: (value / 255 - mean) / std of each channel."""
    device = images_BCHW.device
    mean_C11, std_C11 = (_constant(values, device)[:, None, None] for values in (mean, std))
    x_BCHW = torch.empty(images_BCHW.shape, device=device)
    # image by image on a CPU, whose caches hold an image but not a batch: half the time
    for x, images in (
        [(x_BCHW, images_BCHW)] if device.type != "cpu" else zip(x_BCHW, images_BCHW, strict=True)
    ):
        x.copy_(images).mul_(1 / (255 * std_C11)).sub_(mean_C11 / std_C11)
    return x_BCHW


def erase(x_BCHW: Tensor, draws: BatchDraws) -> None:
    """Write the drawn rectangles into the batch."""
    start = 0
    for image, top, left, height, width, shape in draws.boxes:
        stop = start + shape[0] * shape[1] * shape[2]
        x_BCHW[image, :, top : top + height, left : left + width] = draws.erased[start:stop].view(
            shape
        )
        start = stop


def _groups(draws: BatchDraws, *, chunk: int) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Each operation of each layer, with the batch indices of up to `chunk` images and its values
    for them."""
    indices, values = draws.table_N7[:, 0].long(), draws.table_N7[:, 1:]
    start = 0
    for layer in draws.layers:
        for name, count in layer:
            for first in range(start, start + count, chunk):
                last = min(first + chunk, start + count)
                yield name, indices[first:last], values[first:last]
            start += count


@lru_cache(maxsize=64)
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """A cached tensor of `values`: copying numbers to a device makes the host wait for it."""
    return torch.tensor(values, dtype=torch.float32, device=device)
