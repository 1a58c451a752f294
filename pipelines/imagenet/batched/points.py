"""Operations that depend only on a channel's value, as lookup tables: equal to Pillow's, bit for
bit."""

# Shapes: N images, C channels, H x W pixels, 256 values of a channel.

from __future__ import annotations

import torch
from torch import Tensor

BITS = 8
NUM_LEVELS = 1 << BITS
WHITE = NUM_LEVELS - 1
_MID = 128
"""`solarize_add` does not change this value and higher ones."""


def look_up(images_NCHW: Tensor, tables_NC256: Tensor) -> Tensor:
    """Replaces each value by its entry in the table of its image and channel."""
    num_images, num_channels, height, width = images_NCHW.shape
    flat_RP = images_NCHW.reshape(num_images * num_channels, height * width).long()
    tables_R256 = tables_NC256.expand(num_images, num_channels, -1).reshape(
        num_images * num_channels, -1
    )
    return tables_R256.gather(1, flat_RP).view(images_NCHW.shape)


def invert(images_NCHW: Tensor, values_N: Tensor) -> Tensor:
    return (WHITE - _levels(images_NCHW)).to(torch.uint8).view(1, 1, -1)


def posterize(images_NCHW: Tensor, bits_N: Tensor) -> Tensor:
    """Keeps the highest bits; 0 bits give black."""
    mask_N1 = WHITE ^ ((1 << (BITS - bits_N.long())) - 1)[:, None]
    return (_levels(images_NCHW) & mask_N1).to(torch.uint8)[:, None]


def solarize(images_NCHW: Tensor, thresholds_N: Tensor) -> Tensor:
    levels = _levels(images_NCHW)
    return torch.where(levels < thresholds_N[:, None], levels, WHITE - levels).to(torch.uint8)[
        :, None
    ]


def solarize_add(images_NCHW: Tensor, additions_N: Tensor) -> Tensor:
    levels = _levels(images_NCHW)
    added_N256 = (levels + additions_N.long()[:, None]).clamp(max=WHITE)
    return torch.where(levels < _MID, added_N256, levels).to(torch.uint8)[:, None]


def brightness(images_NCHW: Tensor, factors_N: Tensor) -> Tensor:
    levels = _levels(images_NCHW).float()
    return blend(torch.zeros_like(levels), levels, factors_N[:, None])[:, None]


def contrast(images_NCHW: Tensor, factors_N: Tensor) -> Tensor:
    means_N = grey(images_NCHW).flatten(1).double().mean(1)
    levels = _levels(images_NCHW).float()
    return blend((means_N + 0.5).floor().float()[:, None], levels, factors_N[:, None])[:, None]


def auto_contrast(images_NCHW: Tensor, values_N: Tensor) -> Tensor:
    """Stretches values so that the darkest becomes 0 and the lightest 255; a channel with one value
    stays the same."""
    flat_NCP = images_NCHW.flatten(2)
    lows_NC1, highs_NC1 = (one[..., None].double() for one in (flat_NCP.amin(2), flat_NCP.amax(2)))
    ranges_NC1 = highs_NC1 - lows_NC1
    # Divide tensors: a Python number divided by a tensor is rounded twice.
    scales_NC1 = torch.full_like(ranges_NC1, WHITE) / ranges_NC1
    levels = _levels(images_NCHW)
    stretched_NC256 = (levels * scales_NC1 + -lows_NC1 * scales_NC1).clamp(0, WHITE)
    return torch.where(ranges_NC1 > 0, stretched_NC256, levels.double()).to(torch.uint8)


def equalize(images_NCHW: Tensor, values_N: Tensor) -> Tensor:
    """Spreads values so that each range of them has as many pixels as any other; a channel with one
    value stays the same."""
    counts_NC256 = histograms(images_NCHW)
    levels = _levels(images_NCHW)
    last_NC1 = torch.where(counts_NC256 > 0, levels, 0).amax(2, keepdim=True)
    steps_NC1 = (counts_NC256.sum(2, keepdim=True) - counts_NC256.gather(2, last_NC1)) // WHITE
    before_NC256 = counts_NC256.cumsum(2) - counts_NC256
    spread_NC256 = (before_NC256 + steps_NC1 // 2) // steps_NC1.clamp(min=1)
    return torch.where(steps_NC1 > 0, spread_NC256.clamp(max=WHITE), levels).to(torch.uint8)


def histograms(images_NCHW: Tensor) -> Tensor:
    """(N, C, 256): the number of pixels with each value."""
    num_images, num_channels = images_NCHW.shape[:2]
    num_rows = num_images * num_channels
    rows_R1 = torch.arange(num_rows, device=images_NCHW.device)[:, None] * NUM_LEVELS
    bins = (images_NCHW.reshape(num_rows, -1) + rows_R1).flatten()
    counts = torch.zeros(num_rows * NUM_LEVELS, dtype=torch.int64, device=images_NCHW.device)
    # one-dimensional, so that it also runs where torch must be deterministic
    counts.scatter_add_(
        0, bins, torch.ones((), dtype=torch.int64, device=bins.device).expand(bins.shape)
    )
    return counts.view(num_images, num_channels, NUM_LEVELS)


def grey(images_NCHW: Tensor) -> Tensor:
    """(N, H, W) of int32: Pillow's luma."""
    red, green, blue = images_NCHW.to(torch.int32).unbind(1)
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def blend(start: Tensor, end: Tensor, factors: Tensor) -> Tensor:
    """uint8: `start` at a factor of 0, `end` at 1, extrapolated beyond; truncated to whole numbers
    in float32, as in Pillow."""
    return (start + factors.float() * (end - start)).clamp(0, WHITE).to(torch.uint8)


def _levels(images_NCHW: Tensor) -> Tensor:
    return torch.arange(NUM_LEVELS, device=images_NCHW.device)
