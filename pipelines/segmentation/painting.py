"""Paints label maps over their images: the truth next to the prediction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.data.image_files import load_upright
from pipelines.details.painting import OPACITY, colour_of, fitted, paint_text, save_beside
from pipelines.segmentation.label_maps import UNLABELED, LabelMap, read_label_map

SMALLEST_NAMED = 1 / 500
"""Smallest share of the image that a class must fill for its name to be written."""


def paint(
    image_path: Path, true_path: Path, predicted_path: Path, classes: Sequence[str], to: Path
) -> None:
    """Paints both label maps, in the data set's own numbering, over the image. Writes a JPEG to
    `to`."""
    image, _ = fitted(load_upright(image_path))
    true, predicted = (_over(image, path, classes) for path in (true_path, predicted_path))
    save_beside(true, predicted, to)


def _over(image: Image.Image, label_path: Path, classes: Sequence[str]) -> Image.Image:
    labels = Image.fromarray(read_label_map(label_path).astype(np.uint8))
    values_HW: LabelMap = np.asarray(labels.resize(image.size, Image.Resampling.NEAREST))
    palette = np.array([colour_of(value) for value in range(256)], np.uint8)
    is_known_HW = ~np.isin(values_HW, list(UNLABELED))
    opacity = Image.fromarray(np.where(is_known_HW, round(255 * OPACITY), 0).astype(np.uint8))
    painted = Image.composite(Image.fromarray(palette[values_HW]), image, opacity)
    for value in np.unique(values_HW[is_known_HW]):
        _name(painted, values_HW == value, classes[value - 1], int(value))
    return painted


def _name(image: Image.Image, mask_HW: NDArray[np.bool_], name: str, value: int) -> None:
    """Writes the name of a class on its middle pixel, unless it has few pixels."""
    ys, xs = np.nonzero(mask_HW)
    if len(ys) >= SMALLEST_NAMED * mask_HW.size:
        middle = len(ys) // 2
        paint_text(image, (float(xs[middle]), float(ys[middle])), name, colour_of(value))
