"""The table of batched operations, and the conversion of timm calls to them."""

# Shapes: N images, C channels, H x W pixels, V values of an operation.

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from pipelines.imagenet.batched import filters, points
from pipelines.imagenet.drawn import Op

POINT_TABLES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "auto_contrast": points.auto_contrast,
    "brightness": points.brightness,
    "contrast": points.contrast,
    "equalize": points.equalize,
    "invert": points.invert,
    "posterize": points.posterize,
    "solarize": points.solarize,
    "solarize_add": points.solarize_add,
}
"""(images_NCHW of uint8, values_N) -> lookup tables_NC256 of uint8, for operations that depend only
on a channel's value."""
FILTERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "color": filters.color,
    "gaussian_blur": filters.gaussian_blur,
    "sharpness": filters.sharpness,
}
"""(images_NCHW of uint8, values_N) -> images_NCHW of uint8."""
AFFINE = "affine"
"""Name of the operation with six values: the map from a position in the result to the position in
the image."""


def op_of(name: str, args: tuple[float, ...], *, size: tuple[int, int]) -> Op | None:
    """The operation for timm's function `name` with `args` on an image of `size` (height, width);
    None if it changes nothing.

    Raises KeyError for a function that has no batched form.
    """
    if name in _MAPS:
        return Op(AFFINE, _MAPS[name](args[0], *size))
    if name == "desaturate":
        return Op("color", (min(1.0, max(0.0, 1.0 - args[0])),))
    if name == "posterize" and args[0] >= points.BITS:
        return None
    if name not in POINT_TABLES and name not in FILTERS:
        raise KeyError(f"timm's {name} has no batched form; use augmentation: fast")
    return Op(name, tuple(map(float, args)))


def _shear_x(factor: float, height: int, width: int) -> tuple[float, ...]:
    return 1.0, factor, 0.0, 0.0, 1.0, 0.0


def _shear_y(factor: float, height: int, width: int) -> tuple[float, ...]:
    return 1.0, 0.0, 0.0, factor, 1.0, 0.0


def _translate_x_rel(share: float, height: int, width: int) -> tuple[float, ...]:
    return 1.0, 0.0, share * width, 0.0, 1.0, 0.0


def _translate_y_rel(share: float, height: int, width: int) -> tuple[float, ...]:
    return 1.0, 0.0, 0.0, 0.0, 1.0, share * height


def _rotate(degrees: float, height: int, width: int) -> tuple[float, ...]:
    """Rotates counter-clockwise around the centre, like Pillow."""
    angle = -math.radians(degrees % 360.0)
    cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
    x, y = width / 2, height / 2
    return cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y


_MAPS: dict[str, Callable[[float, int, int], tuple[float, ...]]] = {
    "rotate": _rotate,
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x_rel": _translate_x_rel,
    "translate_y_rel": _translate_y_rel,
}
