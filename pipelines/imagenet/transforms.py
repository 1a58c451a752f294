"""Image -> normalised tensor by timm's transforms: augmentation for training, centre crop for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from PIL import Image
from timm.data import create_transform
from timm.data.auto_augment import AugmentOp, AutoAugment, RandAugment, posterize
from torch import Tensor

from pipelines.imagenet.decoding import decode_rgb

Transform = Callable[[bytes], Tensor]
"""An encoded image -> a tensor. Raises BrokenImageError."""


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
    transform: Any = create_transform(
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
    for op in _augment_ops(transform):
        if op.aug_fn is posterize:
            op.aug_fn = _posterize
    return Decoded(transform)


def eval_transform(*, img_size: int, crop_pct: float, interpolation: str) -> Transform:
    """The shorter side resized to img_size / crop_pct, then the central square of img_size."""
    return Decoded(create_transform(img_size, is_training=False, interpolation=interpolation, crop_pct=crop_pct))


@dataclass(frozen=True)
class Decoded:
    """A transform of images as one of bytes."""

    transform: Callable[[Image.Image], Tensor]

    def __call__(self, content: bytes) -> Tensor:
        return self.transform(decode_rgb(content))


def _augment_ops(transform: Any) -> Iterator[AugmentOp]:
    for one in transform.transforms:
        if isinstance(one, RandAugment):
            yield from one.ops
        elif isinstance(one, AutoAugment):
            yield from (op for policy in one.policy for op in policy)


def _posterize(image: Image.Image, bits_to_keep: int, **unused: object) -> Image.Image:
    """timm's posterize, which asks for 0 bits at full magnitude: black, but an error since Pillow 13."""
    if bits_to_keep == 0:
        return Image.new(image.mode, image.size)
    posterized: Image.Image = posterize(image, bits_to_keep, **unused)
    return posterized
