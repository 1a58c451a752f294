"""Synthetic photographs as JPEGs in ImageNet's layout.

They have as much detail as real photographs, because the decoding time depends on it.
"""

# Shapes: H x W pixels, C channels.

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

WIDTH_PX, HEIGHT_PX = 500, 375
QUALITY = 92
_SLOPE = 1.0
"""How fast amplitudes fall with the spatial frequency; 1 as in natural scenes."""
_NUM_SURFACES = 12


def write_photographs(root: Path, *, num_images: int, num_classes: int = 2, seed: int = 0) -> int:
    """Write `num_images` files below root/train/<class>; return the mean file size in bytes."""
    num_bytes = 0
    for i in range(num_images):
        path = root / "train" / f"class{i % num_classes}" / f"{i:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        num_bytes += path.write_bytes(encode_jpeg(photograph(np.random.default_rng([seed, i]))))
    return num_bytes // num_images


def photograph(rng: np.random.Generator) -> Image.Image:
    """One-colour surfaces with sharp edges, plus a texture of all frequencies, a tint and grain."""
    texture_HW = _texture(rng, HEIGHT_PX, WIDTH_PX)
    tint_HWC = np.stack([_texture(rng, HEIGHT_PX, WIDTH_PX, calm=1.0) for _ in range(3)], axis=-1)
    surfaces_HWC = _surfaces(rng)
    grain_HW1 = rng.normal(0, 3, (HEIGHT_PX, WIDTH_PX, 1))
    light_HWC = surfaces_HWC + 34 * texture_HW[..., None] + 8 * tint_HWC + grain_HW1
    return Image.fromarray(np.clip(light_HWC, 0, 255).astype(np.uint8))


def encode_jpeg(image: Image.Image) -> bytes:
    file = BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def _texture(
    rng: np.random.Generator, height: int, width: int, *, calm: float = 0.0
) -> NDArray[np.float64]:
    """Noise of unit variance whose amplitude falls as frequency ** -(1 + calm)."""
    spectrum = np.fft.rfft2(rng.normal(size=(height, width)))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    texture_HW: NDArray[np.float64] = np.fft.irfft2(
        spectrum / frequency ** (_SLOPE + calm), s=(height, width)
    )
    texture_HW /= texture_HW.std()
    return texture_HW


def _surfaces(rng: np.random.Generator) -> NDArray[np.float64]:
    """Half planes of random colours laid over each other."""
    y_HW, x_HW = np.mgrid[0:HEIGHT_PX, 0:WIDTH_PX]
    image_HWC = np.broadcast_to(rng.uniform(60, 200, 3), (HEIGHT_PX, WIDTH_PX, 3)).copy()
    for _ in range(_NUM_SURFACES):
        angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0, 180)
        side_HW = (x_HW - WIDTH_PX / 2) * np.cos(angle) + (y_HW - HEIGHT_PX / 2) * np.sin(
            angle
        ) > reach
        image_HWC[side_HW] = rng.uniform(30, 225, 3)
    return image_HWC
