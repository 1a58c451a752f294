"""timm's shears and translations of one image, as shifts of its rows, in a quarter of the time of
Pillow's affine map.

In these maps all pixels of a row shift by the same distance. So the weights are computed once per
row, and four pixels are mixed for each result pixel. Pillow computes weights for each pixel and
mixes sixteen.
Results are within one grey level of Pillow's.
"""

# Shapes: C channels and an unused byte, H x W pixels, T taps of a filter, E = W + T - 1.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data import auto_augment as timm_ops

from pipelines.imagenet.batched.affine import CUT_ABOVE
from pipelines.imagenet.batched.points import WHITE

_REACHES = {Image.Resampling.BILINEAR: (0, 1), Image.Resampling.BICUBIC: (-1, 0, 1, 2)}
"""Pixels that a filter mixes, as offsets from the one at or before a position."""


def replaced(function: Callable[..., Any]) -> Callable[..., Any]:
    """The faster function for timm's `function`; `function` itself if there is none."""
    return _FASTER.get(function, function)


def shear_x(image: Image.Image, factor: float, **options: Any) -> Image.Image:
    return _shifted(image, factor * _centres(image.height), timm_ops.shear_x, factor, options)


def shear_y(image: Image.Image, factor: float, **options: Any) -> Image.Image:
    return _shifted(
        image, factor * _centres(image.width), timm_ops.shear_y, factor, options, is_along_y=True
    )


def translate_x_rel(image: Image.Image, pct: float, **options: Any) -> Image.Image:
    return _shifted(
        image,
        np.full(image.height, pct * image.width, np.float64),
        timm_ops.translate_x_rel,
        pct,
        options,
    )


def translate_y_rel(image: Image.Image, pct: float, **options: Any) -> Image.Image:
    shifts_W = np.full(image.width, pct * image.height, np.float64)
    return _shifted(image, shifts_W, timm_ops.translate_y_rel, pct, options, is_along_y=True)


_FASTER: dict[Callable[..., Any], Callable[..., Any]] = {
    timm_ops.shear_x: shear_x,
    timm_ops.shear_y: shear_y,
    timm_ops.translate_x_rel: translate_x_rel,
    timm_ops.translate_y_rel: translate_y_rel,
}


def _shifted(
    image: Image.Image,
    shifts_H: NDArray[np.float64],
    slower: Callable[..., Image.Image],
    arg: float,
    options: dict[str, Any],
    *,
    is_along_y: bool = False,
) -> Image.Image:
    """The image whose row y (or column, with `is_along_y`) shows the pixels `shifts_H[y]` further
    on."""
    if options["resample"] not in _REACHES:
        return slower(image, arg, **options)
    size = image.size
    pixels_HW = np.frombuffer(image.tobytes("raw", "RGBX"), np.uint32).reshape(size[1], size[0])
    if is_along_y:
        pixels_HW = np.ascontiguousarray(pixels_HW.T)
    shifted_HW = _shift_rows(pixels_HW, shifts_H, options["resample"])
    np.copyto(
        shifted_HW, _packed(options["fillcolor"]), where=_is_outside(shifts_H, shifted_HW.shape[1])
    )
    if is_along_y:
        shifted_HW = np.ascontiguousarray(shifted_HW.T)
    return Image.frombytes("RGB", size, shifted_HW.tobytes(), "raw", "RGBX")


def _shift_rows(
    pixels_HW: NDArray[np.uint32],
    shifts_H: NDArray[np.float64],
    resample: Image.Resampling,
) -> NDArray[np.uint32]:
    height, width = pixels_HW.shape
    reaches = _REACHES[resample]
    whole_H = np.floor(shifts_H)
    weights_TH = _weights(torch.from_numpy(shifts_H - whole_H).float(), resample)
    columns_HE = np.arange(reaches[0], width + reaches[-1]) + whole_H.astype(np.int64)[:, None]
    np.clip(columns_HE, 0, width - 1, out=columns_HE)
    columns_HE += width * np.arange(height)[:, None]
    taken_HE = np.take(pixels_HW, columns_HE, mode="wrap")  # this mode skips the bounds check
    taken = torch.from_numpy(taken_HE.view(np.uint8)).view(height, -1, 4).float()
    mixed = taken[:, :width] * weights_TH[0, :, None, None]
    for tap in range(1, len(reaches)):
        mixed.addcmul_(taken[:, tap : tap + width], weights_TH[tap, :, None, None])
    cut = mixed.add_(CUT_ABOVE).clamp_(0, WHITE).to(torch.uint8)
    shifted_HW: NDArray[np.uint32] = cut.numpy().view(np.uint32)[..., 0]
    return shifted_HW


def _weights(parts_H: torch.Tensor, resample: Image.Resampling) -> torch.Tensor:
    d = parts_H
    if resample == Image.Resampling.BILINEAR:
        return torch.stack([1 - d, d])
    return torch.stack([-d + 2 * d**2 - d**3, 1 - 2 * d**2 + d**3, d + d**2 - d**3, -(d**2) + d**3])


def _is_outside(shifts_H: NDArray[np.float64], width: int) -> NDArray[np.bool_]:
    first_H1 = np.ceil(-shifts_H - 0.5).clip(0, width).astype(np.int16)[:, None]
    behind_H1 = np.ceil(width - shifts_H - 0.5).clip(0, width).astype(np.int16)[:, None]
    columns_W = np.arange(width, dtype=np.int16)
    return (columns_W < first_H1) | (columns_W >= behind_H1)


def _centres(length: int) -> NDArray[np.float64]:
    return np.arange(length, dtype=np.float64) + 0.5


def _packed(color: tuple[int, int, int]) -> np.uint32:
    """A colour packed as pixels are stored in memory, for any byte order of the machine."""
    return np.uint32(np.frombuffer(bytes((*color, 0)), np.uint32)[0])
