"""Draws for many images compared with timm's: operations, magnitudes, rectangles, pixels."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from pipelines.imagenet.augmentation import DeviceImage, Mode, make_train_augmentation
from pipelines.imagenet.drawn import Erasure
from pipelines.imagenet.policies import Call, Erasing, Policy
from pipelines.imagenet.transforms import Recipe, augment_ops
from tests.pipelines.imagenet.photographs import REFERENCE, seed_all
from tests.pipelines.imagenet.test_augmentation import augmented

NUM_DRAWS = 6000
SIZE = (64, 64)


def drawn_calls(recipe: Recipe, *, seed: int) -> list[Call]:
    """Operations drawn by our policy, on a tape."""
    policy = Policy.of(recipe.timm_transforms()[1])
    seed_all(seed)
    return [call for _ in range(NUM_DRAWS) for call in policy.draw()]


def timm_calls(recipe: Recipe, *, seed: int) -> list[tuple[str, tuple[float, ...]]]:
    """Operations drawn by timm's transform on an image, recorded by spies on its functions."""
    (transform,) = recipe.timm_transforms()[1]
    seen: list[tuple[str, tuple[float, ...]]] = []
    for op in augment_ops([transform]):
        op.aug_fn = spied(op.aug_fn.__name__.lstrip("_"), seen)
    seed_all(seed)
    for _ in range(NUM_DRAWS):
        transform(Image.new("RGB", (4, 4)))
    return seen


def spied(name: str, seen: list[tuple[str, tuple[float, ...]]]) -> Any:
    def spy(image: Image.Image, *args: float, **options: Any) -> Image.Image:
        seen.append((name, args))
        return image

    return spy


def ks_distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Largest distance between the distribution functions of two samples."""
    indices = np.concatenate([a, b])
    return float(np.abs(cumulated(a, indices) - cumulated(b, indices)).max())


def cumulated(sample: NDArray[np.float64], indices: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.searchsorted(np.sort(sample), indices, side="right") / len(sample)


def test_tape_records_timms_calls_for_the_same_seed() -> None:
    calls = [(call.name, call.args) for call in drawn_calls(REFERENCE, seed=5)]
    assert calls == timm_calls(REFERENCE, seed=5)


def test_each_of_fifteen_operations_is_drawn_equally_often() -> None:
    counts = Counter(call.name for call in drawn_calls(REFERENCE, seed=1))
    expected = NUM_DRAWS / 15  # two layers, each done with a probability of a half
    assert len(counts) == 15
    assert all(abs(count - expected) < 5 * expected**0.5 for count in counts.values())


@pytest.mark.parametrize(
    "name", ["rotate", "shear_x", "translate_y_rel", "color", "sharpness", "posterize", "solarize"]
)
def test_magnitudes_are_distributed_like_timms(name: str) -> None:
    ours = np.array([call.args[0] for call in drawn_calls(REFERENCE, seed=1) if call.name == name])
    timms = np.array([args[0] for seen, args in timm_calls(REFERENCE, seed=2) if seen == name])
    another = replace(REFERENCE, auto_augment="rand-m7-mstd0.5-inc1")
    others = np.array([call.args[0] for call in drawn_calls(another, seed=1) if call.name == name])
    bound = 2 * (2 / min(len(ours), len(timms))) ** 0.5  # 1.36 is 5%, 2 is 0.07%
    assert ks_distance(ours, timms) < bound < ks_distance(ours, others)


def boxes_of_timm(recipe: Recipe, *, seed: int) -> list[tuple[int, int, int, int]]:
    """Rectangles drawn by timm's transform on a tensor: zeros in its result are a rectangle."""
    erasing = recipe.timm_transforms()[2][-1]
    seed_all(seed)
    boxes = []
    for _ in range(NUM_DRAWS):
        rows, columns = (erasing(torch.ones(3, *SIZE))[0] == 0).nonzero(as_tuple=True)
        if len(rows):
            top, left = int(rows.min()), int(columns.min())
            boxes.append((top, left, int(rows.max()) - top + 1, int(columns.max()) - left + 1))
    return boxes


def erasures_of(recipe: Recipe, *, seed: int) -> list[Erasure]:
    erasing = Erasing.of(recipe.timm_transforms()[2], SIZE)
    seed_all(seed)
    return [erasure for _ in range(NUM_DRAWS) for erasure in erasing.draw()]


def test_rectangles_are_distributed_like_timms() -> None:
    recipe = replace(REFERENCE, erasing_mode="const")
    ours = np.array([erasure[:4] for erasure in erasures_of(recipe, seed=1)], dtype=float)
    timms = np.array(boxes_of_timm(recipe, seed=2), dtype=float)
    assert abs(len(ours) - NUM_DRAWS / 4) < 5 * (NUM_DRAWS / 4) ** 0.5
    bound = 2 * (2 / min(len(ours), len(timms))) ** 0.5
    assert ks_distance(ours[:, 2] * ours[:, 3], timms[:, 2] * timms[:, 3]) < bound  # areas
    assert ks_distance(ours[:, 2] / ours[:, 3], timms[:, 2] / timms[:, 3]) < bound  # shapes
    assert all(ks_distance(ours[:, side], timms[:, side]) < bound for side in (0, 1))  # positions


def test_rectangles_hold_noise_one_colour_or_the_mean() -> None:
    for mode, shape in {"pixel": None, "rand": (3, 1, 1), "const": (3, 1, 1)}.items():
        erasures = erasures_of(replace(REFERENCE, erasing_mode=mode), seed=1)  # type: ignore[arg-type]
        values = torch.cat([erasure.values.flatten() for erasure in erasures])
        assert all(e.values.shape == (shape or (3, e.height, e.width)) for e in erasures)
        assert abs(float(values.mean())) < 0.1
        assert abs(float(values.std()) - (mode != "const")) < 0.1


@pytest.mark.parametrize("mode", ["fast", "device"])
def test_pixels_are_distributed_like_timms(mode: Mode) -> None:
    """Uses separate seeds; the spread between images, 0.6, allows for 0.1 with 300 images."""
    ours, timms = (
        augmented(mode, REFERENCE, range(1000, 1300)),
        augmented("reference", REFERENCE, range(300)),
    )
    assert (ours.mean((0, 2, 3)) - timms.mean((0, 2, 3))).abs().max() < 0.15
    assert (ours.std((0, 2, 3)) - timms.std((0, 2, 3))).abs().max() < 0.1
    assert (
        ks_distance(ours.mean((1, 2, 3)).double().numpy(), timms.mean((1, 2, 3)).double().numpy())
        < 2 * (2 / 300) ** 0.5
    )


def test_nothing_is_drawn_if_everything_is_off() -> None:
    augmentation = make_train_augmentation(
        "device", replace(REFERENCE, auto_augment=None, color_jitter=0.0, random_erasing=0.0)
    )
    assert isinstance(augmentation.image, DeviceImage)
    assert augmentation.image.erasing.draw() == ()
    assert all(call.args == (1.0,) for call in augmentation.image.policy.draw())
