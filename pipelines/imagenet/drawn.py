"""Operations drawn for an image in a loader process and applied later, with its whole batch."""

# Shapes: B images, C channels, H x W pixels; N operations, V values each.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

NUM_VALUES = 6
"""Number of values of an operation, padded with zeros: an affine map has six, all others one or
none."""


class Op(NamedTuple):
    """One operation on one image, by its name in `pipelines.imagenet.batched.ops`."""

    name: str
    values: tuple[float, ...]


class Erasure(NamedTuple):
    """A rectangle of one image, in pixels, and its new content: float (C, height, width) or
    (C, 1, 1)."""

    top: int
    left: int
    height: int
    width: int
    values: Tensor


class Drawn(NamedTuple):
    """Operations that remain for one image, in order; then erasures, on the normalised image."""

    ops: tuple[Op, ...]
    erasures: tuple[Erasure, ...]


class Augmented(NamedTuple):
    """A uint8 image and the operations that remain for it."""

    image_CHW: Tensor  # noqa: N815
    drawn: Drawn


class Box(NamedTuple):
    """A rectangle in an image of the batch, and the shape of its part of `BatchDraws.erased`."""

    image: int
    top: int
    left: int
    height: int
    width: int
    shape: tuple[int, ...]


Layer = tuple[tuple[str, int], ...]
"""Names of operations and the number of images for each; an image has at most one operation in a
layer."""


@dataclass(frozen=True)
class BatchDraws:
    """The draws of a batch, grouped so that each operation runs once per layer.

    Counts and boxes stay on the host: slicing with them does not wait for a device. Everything else
    is in two tensors, because each tensor that crosses a process boundary costs a file descriptor
    and a mapping.
    """

    layers: tuple[Layer, ...]
    table_N7: Tensor  # noqa: N815
    """float64, one row per operation, in the order of `layers`: the image's index in the batch,
    then the values."""
    boxes: tuple[Box, ...]
    erased: Tensor
    """The new content of the boxes, flattened and concatenated."""

    def to(self, device: torch.device) -> BatchDraws:
        return self._moved(
            self.table_N7.to(device, non_blocking=True), self.erased.to(device, non_blocking=True)
        )

    def pin_memory(self) -> BatchDraws:
        return self._moved(self.table_N7.pin_memory(), self.erased.pin_memory())

    def _moved(self, table_N7: Tensor, erased: Tensor) -> BatchDraws:
        return replace(self, table_N7=table_N7, erased=erased)


def collate_draws(drawn: Sequence[Drawn]) -> BatchDraws:
    """The draws of a batch's images, in the order of the images."""
    num_layers = max((len(one.ops) for one in drawn), default=0)
    rows: list[tuple[float, ...]] = []
    layers = tuple(_layer(drawn, depth, rows) for depth in range(num_layers))
    erasures = [(image, erasure) for image, one in enumerate(drawn) for erasure in one.erasures]
    return BatchDraws(
        layers=layers,
        table_N7=torch.tensor(rows, dtype=torch.float64).reshape(-1, 1 + NUM_VALUES),
        boxes=tuple(
            Box(image, *erasure[:4], tuple(erasure.values.shape)) for image, erasure in erasures
        ),
        erased=torch.cat([erasure.values.flatten() for _, erasure in erasures])
        if erasures
        else torch.empty(0),
    )


def _layer(drawn: Sequence[Drawn], depth: int, rows: list[tuple[float, ...]]) -> Layer:
    """The operations at `depth` of the images that have one; their rows are added to `rows`."""
    ops = [(one.ops[depth], image) for image, one in enumerate(drawn) if len(one.ops) > depth]
    ops.sort(key=lambda op: op[0].name)
    rows += [(image, *op.values, *([0.0] * (NUM_VALUES - len(op.values)))) for op, image in ops]
    return tuple((name, len(list(group))) for name, group in groupby(op.name for op, _ in ops))
