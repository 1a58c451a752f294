"""What Pillow says about an image file: whether it decodes, and its size as training sees it. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from PIL import ExifTags, Image

UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""Raised for files that are no images, or broken ones."""
_ON_ITS_SIDE = range(5, 9)
"""Orientations of EXIF that swap width and height."""


def image_fault(path: Path) -> str | None:
    """Why an image does not decode, or None."""
    try:
        with Image.open(path) as image:
            image.load()
    except UNREADABLE as err:
        return str(err) or type(err).__name__
    return None


def size_as_loaded(image: Image.Image) -> tuple[int, int]:
    """Width and height of an opened image, after the turn that its EXIF asks for: mmcv loads it so."""
    is_on_its_side = image.getexif().get(ExifTags.Base.Orientation, 1) in _ON_ITS_SIDE
    return (image.height, image.width) if is_on_its_side else image.size
