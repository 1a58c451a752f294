"""Encoded bytes -> an RGB image, whatever mode they were written in; or one error for all that can be wrong.

CMYK, grey, palettes and transparency become RGB as Pillow converts them; what an alpha channel hides comes to light.
Grey of 16 bits is scaled to 8: Pillow alone would clip it, which leaves white where there was a picture. The tag by
which a camera says that it was held sideways is not followed, as in timm and the reference: ImageNet's figures are of
images as they are stored.
"""

from __future__ import annotations

import io
import struct

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

DECODING_ERRORS = (OSError, SyntaxError, ValueError, IndexError, EOFError, struct.error, Image.DecompressionBombError)
"""What Pillow raises on truncated files, wrong magic numbers, broken chunks, impossible headers and absurd sizes."""

_DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_DEEPEST_GREY = 2**16 - 1


class BrokenImageError(Exception):
    """An image that does not decode."""


def decode_rgb(content: bytes) -> Image.Image:
    """The image in RGB, as timm's and the reference's loaders decode it but for 16 bits. Raises BrokenImageError."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return _rgb(image)
    except DECODING_ERRORS as err:
        raise BrokenImageError(str(err)) from err


def decode_tensor(content: bytes) -> Tensor:
    """As `decode_rgb`, as uint8 (3, H, W) whose channels lie last in memory. Raises BrokenImageError.

    JPEGs of one or three channels take torchvision's decoder: the same library and pixels as Pillow's, without its
    fourth byte a pixel and the copies to and fro. What that decoder refuses is Pillow's to decode or to call broken.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.format == "JPEG" and image.mode in ("RGB", "L"):
                try:
                    return _decode_jpeg(content)
                except RuntimeError:
                    pass
            pixels_HWC = np.array(_rgb(image))
    except DECODING_ERRORS as err:
        raise BrokenImageError(str(err)) from err
    return torch.from_numpy(pixels_HWC).permute(2, 0, 1)


def _decode_jpeg(content: bytes) -> Tensor:
    encoded = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    decoded: Tensor = decode_jpeg(encoded, mode=ImageReadMode.RGB)
    return decoded


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in _DEEP_MODES:
        grey = np.asarray(image).astype(np.float32).clip(0, _DEEPEST_GREY) / (_DEEPEST_GREY / 255)
        image = Image.fromarray(np.rint(grey).astype(np.uint8))
    elif image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")  # straight to RGB it is the same picture and a warning
    return image.convert("RGB")
