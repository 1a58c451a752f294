"""Paints images for evaluations: the truth on the left, the prediction on the right."""

from __future__ import annotations

import colorsys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

LONGEST_SIDE_PX = 800
"""Pixels of the longest side of each half. Eight images stay below 2 MB."""
JPEG_QUALITY = 90
OPACITY = 0.5
"""Opacity of a mask over its image."""
WHITE, BLACK = (255, 255, 255), (0, 0, 0)

Colour = tuple[int, int, int]


def evenly_spread(total: int, num: int) -> tuple[int, ...]:
    """Up to `num` evenly spread indices below `total`, the same ones each time."""
    num = min(num, total)
    return tuple(index * total // num for index in range(num))


def colour_of(label: int) -> Colour:
    """A colour that differs from the earlier labels' colours: hues a golden section apart."""
    hue = (0.02 + 0.618033988749895 * label) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, 0.95 if label % 2 == 0 else 0.7)
    return round(255 * red), round(255 * green), round(255 * blue)


def paint_mask(image: Image.Image, mask_HW: NDArray[np.bool_], colour: Colour) -> Image.Image:
    """`image` with `colour` laid over where `mask_HW`, of the image's size, is true."""
    opacity = Image.fromarray(np.where(mask_HW, round(255 * OPACITY), 0).astype(np.uint8))
    return Image.composite(Image.new("RGB", image.size, colour), image, opacity)


def paint_box(
    image: Image.Image, xyxy: tuple[float, float, float, float], text: str, colour: Colour
) -> None:
    """Draws a frame, in pixels of the image, and its `text` into `image`."""
    draw = ImageDraw.Draw(image)
    x0, y0, x1, y1 = xyxy
    draw.rectangle((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)), outline=colour, width=2)
    paint_text(image, (x0, y0), text, colour)


def paint_text(image: Image.Image, xy: tuple[float, float], text: str, colour: Colour) -> None:
    """Draws `text` at `xy` on a background of `colour`, moved so that it fits into the image."""
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=12)
    left, _, right, bottom = draw.textbbox((0, 0), text, font=font)
    x = max(0.0, min(xy[0], image.width - (right - left) - 4))
    y = max(0.0, min(xy[1], image.height - bottom - 4))
    draw.rectangle((x, y, x + right - left + 4, y + bottom + 2), fill=colour)
    is_dark = sum(colour) < 3 * 128
    draw.text((x + 2 - left, y), text, font=font, fill=WHITE if is_dark else BLACK)


def fitted(image: Image.Image) -> tuple[Image.Image, float]:
    """`image` with its longer side scaled to LONGEST_SIDE_PX, and the factor. Small images grow, so
    that texts are legible."""
    factor = LONGEST_SIDE_PX / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Image.Resampling.BILINEAR), factor


def save_beside(true: Image.Image, predicted: Image.Image, path: Path) -> None:
    """Saves two images of equal size next to each other as one JPEG, with a title line."""
    head_px, gap_px = 20, 8
    page = Image.new("RGB", (2 * true.width + gap_px, true.height + head_px), WHITE)
    page.paste(true, (0, head_px))
    page.paste(predicted, (true.width + gap_px, head_px))
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(size=14)
    draw.text((2, 1), "true", font=font, fill=BLACK)
    draw.text((true.width + gap_px + 2, 1), "predicted", font=font, fill=BLACK)
    path.parent.mkdir(parents=True, exist_ok=True)
    page.save(path, quality=JPEG_QUALITY)
