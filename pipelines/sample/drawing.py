"""Draws scans as RGB images: digits in grey, blended on a textured background, and their
outlines."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.sample.scans import Ink, Scan

Rgb = NDArray[np.float32]
"""(H, W, 3), 0 to 1."""
Polygon = tuple[float, ...]
"""x0, y0, x1, y1, ... in pixels, as COCO writes it."""

TEXTURE_CELL_PX = 8
OUTLINE_INK = 0.4
"""A pixel with this coverage or more belongs to the digit."""
OUTLINE_SCALE = 4
"""Factor by which an image is enlarged before outlines are traced. A traced contour runs through
pixel centres, so it is half a pixel too tight, which is an eighth of a pixel after scaling back."""


@dataclass(frozen=True)
class Placed:
    """A scan drawn in the square cell of `size` px whose top left corner is (x, y)."""

    scan: Scan
    x: int
    y: int
    size: int


def background(rng: np.random.Generator, size: int) -> Rgb:
    """A dark, slightly tinted background with a smooth texture."""
    cells = size // TEXTURE_CELL_PX
    texture = _enlarge(rng.uniform(-0.04, 0.04, (cells, cells)).astype(np.float32), size)
    tint = rng.uniform(0.12, 0.32) + rng.uniform(-0.05, 0.05, 3)
    image: Rgb = np.clip(tint.astype(np.float32) + texture[:, :, None], 0, 1)
    return image


def draw(image: Rgb, placed: Placed, brightness: float) -> None:
    """Blend the digit into `image`, in grey of `brightness`."""
    cell = image[placed.y : placed.y + placed.size, placed.x : placed.x + placed.size]
    alpha = np.clip(_enlarge(placed.scan.ink, placed.size), 0, 1)[:, :, None]
    cell[:] = cell * (1 - alpha) + np.float32(brightness) * alpha


def outline(placed: Placed) -> tuple[Polygon, ...]:
    """The digit's outer contours. Holes, as in an 8, count as part of the digit, because COCO's
    polygons have no holes."""
    big = _enlarge(placed.scan.ink, placed.size * OUTLINE_SCALE)
    contours, _ = cv2.findContours(
        (big >= OUTLINE_INK).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
    )
    smooth = [cv2.approxPolyDP(contour, 1.0, closed=True) for contour in contours]
    corner = (placed.x, placed.y)
    # Contours below one pixel are dust on the scanner, not strokes.
    return tuple(
        _polygon(one, corner) for one in smooth if cv2.contourArea(one) >= OUTLINE_SCALE**2
    )


def png(image: Rgb) -> bytes:
    """The image as a PNG file."""
    file = BytesIO()
    Image.fromarray(np.rint(image * 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def _polygon(contour: NDArray[Any], corner: tuple[int, int]) -> Polygon:
    points = (contour.reshape(-1, 2) + 0.5) / OUTLINE_SCALE + np.array(corner)
    return tuple(float(value) for value in points.ravel())


def _enlarge(values: Ink, size: int) -> Ink:
    return np.asarray(Image.fromarray(values).resize((size, size), Image.Resampling.BICUBIC))
