"""The three ways to augment training images, each split between loader processes and the batch's
device.

All three draw the same random numbers in the same order as timm. With one seed they apply the same
operations to the same crop of the same image, and differ only in pixel arithmetic. `reference` is
timm, bit for bit. `fast` decodes, crops and resizes with torch's uint8 kernels, and normalises and
erases the batch; the operations are timm's, except affine ones along one axis. `device` also runs
the operations on the batch's device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import Normalize

from pipelines.imagenet.batched.apply import apply_ops, erase, normalise
from pipelines.imagenet.batched.ops import op_of
from pipelines.imagenet.crops import RandomCrop
from pipelines.imagenet.dataset import Batch
from pipelines.imagenet.drawn import Augmented, Drawn
from pipelines.imagenet.policies import Erasing, Policy
from pipelines.imagenet.rows import replaced
from pipelines.imagenet.transforms import Recipe, Transform, augment_ops, train_transform

Mode = Literal["reference", "fast", "device"]


class Augmentation(NamedTuple):
    """`image` runs in loader processes and can be pickled; `batch` runs on the batch's device and
    returns normalised floats.

    `batch` returns contiguous float32 (B, 3, H, W) and never waits for the device.
    """

    image: Transform
    batch: Callable[[Batch], Tensor]


def make_train_augmentation(mode: Mode, recipe: Recipe) -> Augmentation:
    if mode == "reference":
        return Augmentation(train_transform(recipe), images_of)
    primary, secondary, final = recipe.timm_transforms()
    crop = RandomCrop.of(primary, recipe.interpolation)
    erasing = Erasing.of(final, (recipe.img_size, recipe.img_size))
    finish = Finish.of(final, recipe)
    if mode == "device":
        return Augmentation(DeviceImage(crop, Policy.of(secondary), erasing), finish)
    for op in augment_ops(secondary):
        op.aug_fn = replaced(op.aug_fn)
    return Augmentation(FastImage(crop, Policy.of(secondary), erasing), finish)


def images_of(batch: Batch) -> Tensor:
    """The images of the batch, which need no further operations."""
    return batch.images_BCHW


@dataclass(frozen=True)
class FastImage:
    """Encoded bytes -> the augmented image in uint8, and the areas to erase."""

    crop: RandomCrop
    policy: Policy
    erasing: Erasing

    def __call__(self, content: bytes) -> Augmented:
        image_CHW = self.crop(content)
        tape = self.policy.draw()
        if tape:
            image = Image.fromarray(image_CHW.permute(1, 2, 0).numpy())
            for call in tape:
                image = call.function(image, *call.args, **call.options)
            image_CHW = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        return Augmented(image_CHW, Drawn((), self.erasing.draw()))


@dataclass(frozen=True)
class DeviceImage:
    """Encoded bytes -> the crop in uint8, the operations drawn for it, and the areas to erase."""

    crop: RandomCrop
    policy: Policy
    erasing: Erasing

    def __call__(self, content: bytes) -> Augmented:
        image_CHW = self.crop(content)
        ops = [op_of(call.name, call.args, size=self.crop.crop.size) for call in self.policy.draw()]
        return Augmented(
            image_CHW, Drawn(tuple(op for op in ops if op is not None), self.erasing.draw())
        )


@dataclass(frozen=True)
class Finish:
    """Finishes a batch of uint8: applies its operations, if any, then normalises, then erases."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    fill: tuple[int, ...]
    """Colour that an affine map fills in from outside the image."""
    interpolation: str

    @classmethod
    def of(cls, final: list[Any], recipe: Recipe) -> Finish:
        one = next(one for one in final if isinstance(one, Normalize))
        mean, std = (tuple(float(value) for value in values) for values in (one.mean, one.std))
        fill = tuple(min(255, round(255 * value)) for value in mean)  # timm's img_mean
        return cls(mean, std, fill, recipe.interpolation)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Tensor:
        assert batch.draws is not None, "the batch was loaded by another augmentation's `image`"
        images_BCHW = apply_ops(
            batch.images_BCHW, batch.draws, fill=self.fill, interpolation=self.interpolation
        )
        x_BCHW = normalise(images_BCHW, self.mean, self.std)
        erase(x_BCHW, batch.draws)
        return x_BCHW
