"""Reads image files as RGB, with the same rules for all tasks and one error type for all faults.

- CMYK, YCbCr, grey and palettes become RGB as Pillow converts them. An alpha channel is dropped.
- Deeper grey is scaled to 8 bits: integers from 0 to 65535, floats from 0 to 1. A grey file with
  other values is broken, because its range is unknown. Pillow would clip all of them to 0 to 255,
  which leaves white or black.
- Classifiers read the pixels as they are stored, as timm and the reference do. Detectors and
  segmenters read them upright, turned according to the EXIF orientation, as OpenCV and mmcv do.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION, TiffImageFile

_DEEPEST_GREY = 2**16 - 1
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Operation that makes an image upright, by its EXIF orientation."""
_ON_ITS_SIDE = range(5, 9)
"""Orientations that swap width and height."""


class BrokenImageError(Exception):
    """An image that cannot be decoded."""


@contextmanager
def opened(file: Path | BytesIO) -> Iterator[ImageFile.ImageFile]:
    """Opens an image without decoding it. Turns what Pillow raises in the block into
    BrokenImageError."""
    try:
        with Image.open(file) as image:
            yield image
    except (BrokenImageError, MemoryError):
        raise
    except UnidentifiedImageError as err:
        raise BrokenImageError("not an image, or an unknown format") from err
    except Exception as err:  # damaged headers make Pillow's readers raise almost anything
        raise BrokenImageError(str(err) or type(err).__name__) from err


def decode_rgb(content: bytes) -> Image.Image:
    """The image in RGB, as it is stored. Raises BrokenImageError."""
    with opened(BytesIO(content)) as image:
        return to_rgb(image)


def load_upright(path: Path) -> Image.Image:
    """The image in RGB, turned according to its EXIF orientation.

    Raises BrokenImageError, also for a file that cannot be read.
    """
    try:
        # Do not open it by path: Pillow would map a raw TIFF that lies on its side, and read noise.
        content = path.read_bytes()
    except OSError as err:
        raise BrokenImageError(err.strerror or str(err)) from err
    with opened(BytesIO(content)) as image:
        image.load()  # Pillow turns a TIFF here and removes its orientation
        turn = _TURNS.get(_orientation(image))
        rgb = to_rgb(image)
        return rgb if turn is None else rgb.transpose(turn)


def upright_size(path: Path) -> tuple[int, int]:
    """Width and height of `load_upright(path)`, without decoding it. Raises BrokenImageError."""
    with opened(path) as image:
        # Pillow already swapped the sides of a TIFF.
        is_on_its_side = image.format != "TIFF" and _orientation(image) in _ON_ITS_SIDE
        return (image.height, image.width) if is_on_its_side else image.size


def image_fault(path: Path) -> str | None:
    """Why `load_upright(path)` fails; None if it does not."""
    try:
        load_upright(path)
    except BrokenImageError as err:
        return str(err)
    return None


def to_rgb(image: Image.Image) -> Image.Image:
    """`image`, of any mode, converted to RGB."""
    if image.mode == "F" or image.mode.startswith("I"):
        image = _grey_of_8_bits(image)
    elif image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        image = image.convert(
            "RGBA"
        )  # converting straight to RGB gives the same image and a warning
    return image.convert("RGB")


def _grey_of_8_bits(image: Image.Image) -> Image.Image:
    grey = np.asarray(image)
    white = 1 if image.mode == "F" else _DEEPEST_GREY
    low, high = grey.min(), grey.max()
    if not (low >= 0 and high <= white):  # false for NaN
        raise BrokenImageError(
            f"grey values from {low:g} to {high:g}; floats must be from 0 to 1, integers from 0 to "
            f"{_DEEPEST_GREY}"
        )
    scaled = np.rint(grey.astype(np.float32) / (white / 255)).astype(np.uint8)
    return Image.fromarray(255 - scaled if _is_negative(image) else scaled)


def _is_negative(image: Image.Image) -> bool:
    """Whether 0 means white in a TIFF; Pillow inverts only 8-bit grey."""
    return isinstance(image, TiffImageFile) and image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1 means upright, and is the value for images without a usable tag."""
    value = image.getexif().get(ExifTags.Base.Orientation, 1)
    return value if isinstance(value, int) else 1
