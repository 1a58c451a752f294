"""Image -> normalised tensor by timm's transforms: augmentation for training, centre crop for evaluation."""

from __future__ import annotations

from typing import cast

from timm.data import create_transform

from pipelines.imagenet.dataset import Transform


def train_transform(
    *,
    img_size: int,
    scale: tuple[float, float],
    interpolation: str,
    hflip: float,
    auto_augment: str | None,
    color_jitter: float,
    random_erasing: float,
) -> Transform:
    """Random resized crop, flip, augmentation, erasing. timm leaves colour jitter out where `auto_augment` is on."""
    transform = create_transform(
        img_size,
        is_training=True,
        scale=scale,
        interpolation=interpolation,
        hflip=hflip,
        auto_augment=auto_augment,
        color_jitter=color_jitter,
        re_prob=random_erasing,
        re_mode="pixel",
        re_count=1,
    )
    return cast(Transform, transform)


def eval_transform(*, img_size: int, crop_pct: float, interpolation: str) -> Transform:
    """The shorter side resized to img_size / crop_pct, then the central square of img_size."""
    transform = create_transform(img_size, is_training=False, interpolation=interpolation, crop_pct=crop_pct)
    return cast(Transform, transform)
