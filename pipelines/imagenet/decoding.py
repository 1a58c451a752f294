"""Encoded bytes -> an RGB image, whatever mode they were written in; or one error for all that can be wrong."""

from __future__ import annotations

import io
import struct

from PIL import Image

DECODING_ERRORS = (OSError, SyntaxError, ValueError, IndexError, EOFError, struct.error, Image.DecompressionBombError)
"""What Pillow raises on truncated files, wrong magic numbers, broken chunks, impossible headers and absurd sizes."""


class BrokenImageError(Exception):
    """An image that does not decode."""


def decode_rgb(content: bytes) -> Image.Image:
    """The image in RGB, as timm's and the reference's loaders decode it. Raises BrokenImageError."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.convert("RGB")
    except DECODING_ERRORS as err:
        raise BrokenImageError(str(err)) from err
