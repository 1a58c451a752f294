"""Reads label maps: PNGs of one channel whose pixels are the numbers of classes.

Does not import torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.data.image_files import BrokenImageError, opened

UNLABELED = frozenset({0, 255})
"""Pixel values without a class. Class n of the list, counted from 1, has the value n."""
IGNORED = 255
"""The label of a pixel without a class; other labels count from 0."""
_GREY_STEPS = {"L;2": 85, "L;4": 17}
"""The step between values of 2-bit and 4-bit grey, which Pillow scales to 0 to 255, by Pillow's
mode names."""

LabelMap = NDArray[np.integer[Any]]
"""A label map of shape (H, W), in the data set's own numbering."""


def read_label_map(path: Path) -> LabelMap:
    """The values as stored in the file, never rotated or scaled.

    Raises BrokenImageError if the file is broken or not a label map.
    """
    with opened(path) as image:
        if image.format != "PNG":
            raise BrokenImageError(f"is a {image.format}; a label map must be a PNG")
        step = _GREY_STEPS.get(str(image.tile[0].args), 1)
        values = np.asarray(image)
    if values.ndim != 2:  # noqa: PLR2004
        raise BrokenImageError(f"has {values.shape[-1]} channels; a label map must have one")
    if values.dtype == np.bool_:
        return values.astype(np.uint8)
    return values // step if step > 1 else values


def labels_of(label_map: LabelMap) -> NDArray[np.uint8]:
    """Labels for training, counted from 0, with IGNORED for pixels without a class."""
    is_unlabeled = np.isin(label_map, list(UNLABELED))
    return np.where(is_unlabeled, IGNORED, label_map - 1).astype(np.uint8)
