"""Encoded bytes -> a random crop, resized and perhaps flipped, as uint8: timm's draws, torch's
arithmetic. Files are decoded as in `pipelines/data/image_files.py`, but JPEGs faster."""

# Shapes: C channels, H x W pixels.

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import RandomHorizontalFlip

from pipelines.data.image_files import opened, to_rgb

_MODES = {"bicubic": "bicubic", "bilinear": "bilinear", "nearest": "nearest-exact"}
"""torch's names for Pillow's filters. When an image shrinks, every filter except nearest widens in
proportion."""


@dataclass(frozen=True)
class RandomCrop:
    """timm's random resized crop and flip of an encoded image; it makes exactly timm's draws.

    With vector instructions torch resizes uint8 four times as fast as Pillow, and within one grey
    level of it.
    """

    crop: Any
    """timm's RandomResizedCropAndInterpolation, which draws the boxes."""
    interpolation: str
    hflip: float

    @classmethod
    def of(cls, primary: list[Any], interpolation: str) -> RandomCrop:
        """The crop and flip of timm's first transforms."""
        flips = [one.p for one in primary if isinstance(one, RandomHorizontalFlip)]
        return cls(primary[0], interpolation, flips[0] if flips else 0.0)

    def __call__(self, content: bytes) -> Tensor:
        """uint8 (C, H, W), channels last in memory. Raises BrokenImageError."""
        image_CHW = decode_tensor(content)
        top, left, height, width = self.crop.get_params(image_CHW, self.crop.scale, self.crop.ratio)
        crop_CHW = image_CHW[:, top : top + height, left : left + width]
        resized_CHW = resize(crop_CHW, self.crop.size, self.interpolation)
        if self.hflip > 0 and torch.rand(1) < self.hflip:
            resized_CHW = resized_CHW.flip(-1)
        return resized_CHW


def resize(image_CHW: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    """uint8 (C, height, width) of `size`, channels last in memory, resized like Pillow does."""
    batch_1CHW = image_CHW[None].contiguous(memory_format=torch.channels_last)  # else 40% slower
    is_nearest = interpolation == "nearest"
    return interpolate(
        batch_1CHW,
        size=size,
        mode=_MODES[interpolation],
        antialias=not is_nearest,
        align_corners=None if is_nearest else False,
    )[0]


def decode_tensor(content: bytes) -> Tensor:
    """Like `decode_rgb`, but returns uint8 (3, H, W) with channels last in memory. Raises
    BrokenImageError.

    JPEGs of one or three channels use torchvision's decoder. It has the same library and pixels as
    Pillow's, without the fourth byte per pixel and the copies back and forth. If that decoder
    refuses a file, Pillow decodes it or reports it as broken.
    """
    with opened(BytesIO(content)) as image:
        if image.format == "JPEG" and image.mode in ("RGB", "L"):
            try:
                return _decode_jpeg(content)
            except RuntimeError:
                pass
        pixels_HWC = np.array(to_rgb(image))
    return torch.from_numpy(pixels_HWC).permute(2, 0, 1)


def _decode_jpeg(content: bytes) -> Tensor:
    encoded = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    decoded: Tensor = decode_jpeg(encoded, mode=ImageReadMode.RGB)
    return decoded
