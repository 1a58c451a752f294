"""Lets timm's own policies draw the operations for an image without applying them, so that no
distribution is implemented twice.

timm's RandAugment, AutoAugment and RandomErasing run on a tape in place of an image. timm's code
draws every random number in its own order, and the calls that it would make on the image are
recorded.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from timm.data.auto_augment import (
    AutoAugment,
    RandAugment,
    brightness,
    color,
    contrast,
    gaussian_blur,
)
from timm.data.auto_augment import gaussian_blur_rand as timm_gaussian_blur_rand
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torchvision.transforms import ColorJitter

from pipelines.imagenet.drawn import Erasure
from pipelines.imagenet.transforms import augment_ops

_BLUR_RADIUS_PX = (0.1, 2.0)
"""Range of radii that timm's gaussian_blur_rand draws from; the largest is for a factor of 1."""
_NUM_CHANNELS = 3


class Call(NamedTuple):
    """A call that timm would have made on the image."""

    function: Callable[..., Any]
    args: tuple[float, ...]
    options: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.function.__name__).lstrip("_")


Tape = tuple[Call, ...]


@dataclass(frozen=True)
class Policy:
    """timm's transforms of the small image as draws: a policy of operations, or colour jitter, or
    both."""

    transforms: tuple[Callable[[Tape], Tape], ...]

    @classmethod
    def of(cls, secondary: list[Any]) -> Policy:
        """The draws of timm's second transforms, which are modified and must not be used
        afterwards."""
        for op in augment_ops(secondary):
            op.aug_fn = Recorder(op.aug_fn)
        return cls(tuple(_recording(one) for one in secondary))

    def draw(self) -> Tape:
        tape: Tape = ()
        for transform in self.transforms:
            tape = transform(tape)
        return tape


@dataclass(frozen=True)
class Recorder:
    """Replaces a timm function on images and records its calls."""

    function: Callable[..., Any]

    def __call__(self, tape: Tape, *args: float, **options: Any) -> Tape:
        if self.function is timm_gaussian_blur_rand:  # the only function that draws by itself
            least, greatest = _BLUR_RADIUS_PX
            strength = random.uniform(least, greatest * args[0])  # noqa: S311
            return (*tape, Call(gaussian_blur, (strength,), options))
        return (*tape, Call(self.function, args, options))


@dataclass(frozen=True)
class JitterDraws:
    """torchvision's ColorJitter as draws: brightness, contrast and saturation by random factors in
    random order."""

    jitter: ColorJitter

    def __call__(self, tape: Tape) -> Tape:
        one = self.jitter
        order, *factors, _ = one.get_params(one.brightness, one.contrast, one.saturation, one.hue)
        functions = (brightness, contrast, color)
        # the fourth is hue, which timm leaves out
        drawn = [
            (functions[i], factors[i])
            for i in order.tolist()
            if i < len(functions) and factors[i] is not None
        ]
        return (*tape, *(Call(function, (factor,), {}) for function, factor in drawn))


@dataclass(frozen=True)
class Erasing:
    """timm's RandomErasing as draws; a `transform` of None draws nothing."""

    transform: RandomErasing | None
    size: tuple[int, int]

    @classmethod
    def of(cls, final: list[Any], size: tuple[int, int]) -> Erasing:
        """The erasing among timm's last transforms."""
        return cls(next((one for one in final if isinstance(one, RandomErasing)), None), size)

    def draw(self) -> tuple[Erasure, ...]:
        if self.transform is None:
            return ()
        canvas = _Canvas((_NUM_CHANNELS, *self.size))
        self.transform(canvas)
        return tuple(canvas.erasures)


class _Canvas:
    """Replaces the image that RandomErasing writes on, and records where and what."""

    dtype = torch.float32

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self._shape = shape
        self.erasures: list[Erasure] = []

    def size(self) -> tuple[int, int, int]:
        return self._shape

    def __setitem__(self, window: tuple[slice, slice, slice], values: Tensor) -> None:
        _, rows, columns = window
        self.erasures.append(
            Erasure(
                rows.start,
                columns.start,
                rows.stop - rows.start,
                columns.stop - columns.start,
                values,
            )
        )


def _recording(transform: Any) -> Callable[[Tape], Tape]:
    if isinstance(transform, ColorJitter):
        return JitterDraws(transform)
    assert isinstance(transform, RandAugment | AutoAugment), (
        f"timm augments with {transform!r}, which has no recorder here"
    )
    drawing: Callable[[Tape], Tape] = transform
    return drawing
