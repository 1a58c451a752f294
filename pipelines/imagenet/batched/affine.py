"""Affine maps of images, a separate map for each, with Pillow's sampling, which torch's grid_sample
does not offer."""

# Shapes: N images, C channels, H x W pixels, P = H * W of them.

from __future__ import annotations

import torch
from torch import Tensor

from pipelines.imagenet.batched.points import WHITE

_REACHES = {"nearest": (0,), "bilinear": (0, 1), "bicubic": (-1, 0, 1, 2)}
"""Pixels along an axis that a filter mixes, as offsets from the one at or before a position."""

CUT_ABOVE = 1e-3
"""Added before truncation. Pillow truncates mixed values to whole numbers in float64; in float32 a
flat 100 may become 99.9999."""


def affine(images_NCHW: Tensor, maps_N6: Tensor, *, fill_C: Tensor, interpolation: str) -> Tensor:
    """Maps images: pixel centre (x, y) of the result shows the image at (a x + b y + c, d x + e y +
    f).

    Positions outside the image become `fill_C`. A filter that reaches beyond an edge uses the edge
    pixels. Bicubic is Pillow's, with a slope of -1, not grid_sample's -0.75.
    """
    num_images, num_channels, height, width = images_NCHW.shape
    x_NP, y_NP = _positions(maps_N6.double(), height, width)
    is_inside_NP = (x_NP >= 0) & (x_NP < width) & (y_NP >= 0) & (y_NP < height)
    pixels_NPC = images_NCHW.flatten(2).transpose(1, 2)
    columns, weights_x = _taps(x_NP, width, interpolation)
    rows, weights_y = _taps(y_NP, height, interpolation)
    mixed_NPC = torch.zeros(num_images, height * width, num_channels, device=images_NCHW.device)
    for row_NP, weight_y in zip(rows, weights_y, strict=True):
        for column_NP, weight_x in zip(columns, weights_x, strict=True):
            index_NPC = (row_NP * width + column_NP)[..., None].expand(-1, -1, num_channels)
            mixed_NPC.addcmul_(
                pixels_NPC.gather(1, index_NPC).float(), (weight_x * weight_y)[..., None]
            )
    cut_NPC = mixed_NPC.add_(CUT_ABOVE).clamp_(0, WHITE)
    result_NPC = torch.where(is_inside_NP[..., None], cut_NPC, fill_C).to(torch.uint8)
    return result_NPC.view(num_images, height, width, num_channels).permute(0, 3, 1, 2)


def _positions(maps_N6: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """x and y, (N, P) in float64, of the position that each pixel of the result shows."""
    a, b, c, d, e, f = maps_N6[:, :, None].unbind(1)
    y_P = (
        (torch.arange(height, device=maps_N6.device) + 0.5)
        .double()
        .repeat_interleave(width, output_size=height * width)
    )
    x_P = (torch.arange(width, device=maps_N6.device) + 0.5).double().repeat(height)
    return a * x_P + b * y_P + c, d * x_P + e * y_P + f


def _taps(
    positions_NP: Tensor, length: int, interpolation: str
) -> tuple[list[Tensor], list[Tensor]]:
    """The pixels along one axis that are mixed for each position, and the weight of each."""
    if interpolation == "nearest":
        return [_clamped(positions_NP.floor(), length)], [
            torch.ones_like(positions_NP, dtype=torch.float32)
        ]
    before_NP = (positions_NP - 0.5).floor()
    weights = _WEIGHTS[interpolation]((positions_NP - 0.5 - before_NP).float())
    return [_clamped(before_NP + reach, length) for reach in _REACHES[interpolation]], weights


def _clamped(positions_NP: Tensor, length: int) -> Tensor:
    return positions_NP.clamp(0, length - 1).long()


def _linear(d: Tensor) -> list[Tensor]:
    return [1 - d, d]


def _cubic(d: Tensor) -> list[Tensor]:
    """Weights of pixels -1, 0, 1 and 2, for `d` between 0 and 1."""
    return [-d + 2 * d**2 - d**3, 1 - 2 * d**2 + d**3, d + d**2 - d**3, -(d**2) + d**3]


_WEIGHTS = {"bilinear": _linear, "bicubic": _cubic}
