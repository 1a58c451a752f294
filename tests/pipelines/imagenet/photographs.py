"""Real photographs, the reference's recipe and seeds, for the tests of augmentation."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from pipelines.imagenet.transforms import Recipe

REFERENCE = Recipe(
    img_size=64,
    scale=(0.08, 1.0),
    ratio=(3 / 4, 4 / 3),
    interpolation="bicubic",
    hflip=0.5,
    auto_augment="rand-m9-mstd0.5-inc1",
    color_jitter=0.4,
    random_erasing=0.25,
    erasing_mode="pixel",
    erasing_count=1,
)
PLAIN = replace(REFERENCE, auto_augment=None, color_jitter=0.0, random_erasing=0.0)
"""Crop and flip only."""


@cache
def photographs() -> tuple[Image.Image, ...]:
    """Two photographs of 640 x 427 from scikit-learn: a temple in front of a clear sky, and a
    flower."""
    return tuple(Image.fromarray(pixels) for pixels in load_sample_images().images)


@cache
def small(size: int = 96) -> tuple[Image.Image, ...]:
    return tuple(image.resize((size, size)) for image in photographs())


def encoded(image: Image.Image, file_format: str = "JPEG", **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


@cache
def jpegs() -> tuple[bytes, ...]:
    return tuple(encoded(image) for image in photographs())


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
