"""Image -> normalised tensor with timm's transforms: augmentation for training, centre crop for
evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image
from timm.data import create_transform
from timm.data.auto_augment import AugmentOp, AutoAugment, RandAugment, posterize
from torch import Tensor

from pipelines.data.image_files import decode_rgb
from pipelines.imagenet.drawn import Augmented

Transform = Callable[[bytes], Tensor | Augmented]
"""An encoded image -> a tensor, or a tensor with operations that remain for its batch. Raises
BrokenImageError."""
ErasingMode = Literal["const", "rand", "pixel"]


@dataclass(frozen=True)
class Recipe:
    """The augmentation of training images in timm's terms; the fields have PretrainParams' names.

    timm ignores colour jitter if `auto_augment` is on, except for the policy `3a`.
    """

    img_size: int
    scale: tuple[float, float]
    ratio: tuple[float, float]
    interpolation: str
    hflip: float
    auto_augment: str | None
    color_jitter: float
    random_erasing: float
    erasing_mode: ErasingMode
    erasing_count: int

    def timm_transforms(self) -> tuple[list[Any], list[Any], list[Any]]:
        """timm's transforms in three parts: crop and flip, augmentation of the small image, tensor
        and erasing."""
        parts = create_transform(
            self.img_size,
            is_training=True,
            scale=self.scale,
            ratio=self.ratio,
            interpolation=self.interpolation,
            hflip=self.hflip,
            auto_augment=self.auto_augment,
            color_jitter=self.color_jitter,
            re_prob=self.random_erasing,
            re_mode=self.erasing_mode,
            re_count=self.erasing_count,
            separate=True,
        )
        primary, secondary, final = (list(part.transforms) for part in parts)
        for op in augment_ops(secondary):
            if op.aug_fn is posterize:
                op.aug_fn = _posterize
        return primary, secondary, final


def train_transform(recipe: Recipe) -> Decoded:
    """Random resized crop, flip, augmentation and erasing: timm's own, bit for bit, with timm's own
    draws."""
    primary, secondary, final = recipe.timm_transforms()
    return Decoded(Chain((*primary, *secondary, *final)))


def eval_transform(*, img_size: int, crop_pct: float, interpolation: str) -> Decoded:
    """Resizes the shorter side to img_size / crop_pct, then takes the central square of
    img_size."""
    return Decoded(
        create_transform(
            img_size, is_training=False, interpolation=interpolation, crop_pct=crop_pct
        )
    )


@dataclass(frozen=True)
class Decoded:
    """A transform of images as a transform of bytes."""

    transform: Callable[[Image.Image], Tensor]

    def __call__(self, content: bytes) -> Tensor:
        return self.transform(decode_rgb(content))


@dataclass(frozen=True)
class Chain:
    """Applies transforms one after the other."""

    transforms: tuple[Callable[[Any], Any], ...]

    def __call__(self, image: Any) -> Any:
        for transform in self.transforms:
            image = transform(image)
        return image


def augment_ops(transforms: list[Any]) -> Iterator[AugmentOp]:
    """The operations of timm's policies among `transforms`."""
    for one in transforms:
        if isinstance(one, RandAugment):
            yield from one.ops
        elif isinstance(one, AutoAugment):
            yield from (op for policy in one.policy for op in policy)


def _posterize(image: Image.Image, bits_to_keep: int, **unused: object) -> Image.Image:
    """timm's posterize, also for 0 bits, which timm draws at full magnitude: the image becomes
    black. Pillow 13 raises an error for them."""
    if bits_to_keep == 0:
        return Image.new(image.mode, image.size)
    posterized: Image.Image = posterize(image, bits_to_keep, **unused)
    return posterized
