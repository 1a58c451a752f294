"""The multi-scale training of DETR and Sparse R-CNN, by which the rows published with a plus were
trained."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

from pipelines.openmmlab.recipe import Config

PUBLISHED_SHORT = 800
"""Pixels; the lengths below belong to it and shrink with it."""
SHORT_SIDES = tuple(range(480, 801, 32))
SHORT_SIDES_TO_CROP = (400, 500, 600)
CROP_SIDES = (384, 600)
"""Least and greatest height and width of a crop."""


def multi_scale(*, long: int, short: int) -> Config:
    """Resize at random, or (as often) resize, crop and resize again; `long` bounds the long side
    throughout."""
    ratio = Fraction(short, PUBLISHED_SHORT)
    resize = _resize(long, (round(side * ratio) for side in SHORT_SIDES))
    resize_to_crop = _resize(long, (round(side * ratio) for side in SHORT_SIDES_TO_CROP))
    crop = {
        "type": "RandomCrop",
        "crop_type": "absolute_range",
        "crop_size": tuple(round(side * ratio) for side in CROP_SIDES),
        "allow_negative_crop": True,
    }
    return {"type": "RandomChoice", "transforms": [[resize], [resize_to_crop, crop, resize]]}


def _resize(long: int, short_sides: Iterable[int]) -> Config:
    return {
        "type": "RandomChoiceResize",
        "scales": [(short, long) for short in short_sides],
        "keep_ratio": True,
    }
