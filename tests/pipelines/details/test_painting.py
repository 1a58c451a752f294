"""Painted images: the choice of images, and the position of each part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.details.painting import (
    LONGEST_SIDE_PX,
    colour_of,
    evenly_spread,
    fitted,
    paint_box,
    paint_mask,
    paint_text,
    save_beside,
)


@pytest.mark.parametrize(
    ("total", "num", "places"), [(10, 3, (0, 3, 6)), (3, 8, (0, 1, 2)), (5, 0, ()), (0, 8, ())]
)
def test_images_are_spread_evenly(total: int, num: int, places: tuple[int, ...]) -> None:
    assert evenly_spread(total, num) == places


def test_each_coco_class_has_a_different_colour() -> None:
    assert len({colour_of(label) for label in range(80)}) == 80


def test_mask_tints_only_the_pixels_it_covers() -> None:
    mask = np.zeros((4, 6), bool)
    mask[1, 2] = True
    painted = np.asarray(paint_mask(Image.new("RGB", (6, 4), (0, 0, 0)), mask, (200, 100, 0)))
    assert painted[1, 2].tolist() == [100, 50, 0]
    assert painted[~mask].max() == 0


def test_texts_and_boxes_at_the_edges_stay_in_the_image() -> None:
    image = Image.new("RGB", (120, 40), (0, 0, 0))
    paint_text(image, (119, 39), "far out", (255, 255, 255))
    assert np.asarray(image)[-10:, -20:].max() == 255
    paint_box(image, (130, 50, -10, -5), "turned round", (255, 0, 0))


def test_truth_is_on_the_left_and_prediction_on_the_right(tmp_path: Path) -> None:
    true, factor = fitted(Image.new("RGB", (1600, 400), (200, 0, 0)))
    predicted, _ = fitted(Image.new("RGB", (1600, 400), (0, 0, 200)))
    assert true.size == (LONGEST_SIDE_PX, 200)
    assert factor == 0.5
    save_beside(true, predicted, tmp_path / "pages/one.jpg")
    with Image.open(tmp_path / "pages/one.jpg") as page:
        pixels = np.asarray(page).astype(int)
    assert pixels.shape == (220, 2 * LONGEST_SIDE_PX + 8, 3)
    assert np.abs(pixels[120, [300, 1200]] - [(200, 0, 0), (0, 0, 200)]).max() < 8
