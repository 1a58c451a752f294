"""Operations that mix a pixel's channels or its neighbours."""

# Shapes: N images, C channels, H x W pixels, T taps of a filter.

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from pipelines.imagenet.batched.points import blend, grey

_SMOOTH_SUM, _SMOOTH_CENTRE = 13, 5
"""Pillow's SMOOTH: the mean of a pixel and its eight neighbours, in which the pixel counts five
times."""
_BLUR_PASSES = 3
_BLUR_REACH = 2
"""Pixels to each side that a pass reaches; enough for a radius of 2, timm's largest."""


def color(images_NCHW: Tensor, factors_N: Tensor) -> Tensor:
    grey_N1HW = grey(images_NCHW)[:, None].float()
    return blend(grey_N1HW, images_NCHW.float(), factors_N[:, None, None, None])


def sharpness(images_NCHW: Tensor, factors_N: Tensor) -> Tensor:
    """The image blended with its smooth version, in which the outermost pixels stay unchanged."""
    images = images_NCHW.float()
    smooth = images.clone()
    rows = images[..., :-2, :] + images[..., 1:-1, :] + images[..., 2:, :]
    sums = (
        rows[..., :-2]
        + rows[..., 1:-1]
        + rows[..., 2:]
        + (_SMOOTH_CENTRE - 1) * images[..., 1:-1, 1:-1]
    )
    smooth[..., 1:-1, 1:-1] = ((2 * sums + _SMOOTH_SUM) / (2 * _SMOOTH_SUM)).floor()
    return blend(smooth, images, factors_N[:, None, None, None])


def gaussian_blur(images_NCHW: Tensor, radii_N: Tensor) -> Tensor:
    """Pillow's blur: three box filters along each axis, whose edge pixels count in part. Radii up
    to 2 pixels."""
    weights_NT = _box_weights(radii_N)
    images = images_NCHW.float()
    for axis in (-1, -2):
        for _ in range(_BLUR_PASSES):
            images = (_filtered(images, weights_NT, axis) + 0.5).floor()
    return images.clamp(0, 255).to(torch.uint8)


def _filtered(images_NCHW: Tensor, weights_NT: Tensor, axis: int) -> Tensor:
    margin = (_BLUR_REACH, _BLUR_REACH, 0, 0) if axis == -1 else (0, 0, _BLUR_REACH, _BLUR_REACH)
    padded = pad(images_NCHW, margin, mode="replicate")
    length = images_NCHW.shape[axis]
    taps = [
        padded.narrow(axis, tap, length) * weights_NT[:, tap, None, None, None]
        for tap in range(len(weights_NT[0]))
    ]
    return torch.stack(taps).sum(0)


def _box_weights(radii_N: Tensor) -> Tensor:
    """(N, 2 * _BLUR_REACH + 1): the box such that three of them in a row approximate a Gaussian of
    the radius."""
    variance_N = radii_N.double() ** 2 / _BLUR_PASSES
    whole_N = (((12 * variance_N + 1).sqrt() - 1) / 2).floor()
    part_N = (2 * whole_N + 1) * (whole_N * (whole_N + 1) - 3 * variance_N)
    part_N = part_N / (6 * (variance_N - (whole_N + 1) ** 2))
    distance_T = torch.arange(-_BLUR_REACH, _BLUR_REACH + 1, device=radii_N.device).abs()
    weights_NT = (whole_N[:, None] + part_N[:, None] + 1 - distance_T).clamp(0, 1)
    return (weights_NT / weights_NT.sum(1, keepdim=True)).float()
