"""The three augmentation modes: one equals timm bit for bit, two give timm's results for the same
seed."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from timm.data import create_transform
from torch import Tensor
from torch.utils.data import DataLoader

from pipelines.data.image_files import decode_rgb
from pipelines.imagenet.augmentation import Augmentation, Mode, make_train_augmentation
from pipelines.imagenet.batched.apply import erase
from pipelines.imagenet.dataset import Batch, Images, Sample, TrainSampler, collate
from pipelines.imagenet.drawn import Augmented, Drawn, Erasure, collate_draws
from pipelines.imagenet.folders import Index, load_index
from pipelines.imagenet.transforms import Recipe
from tests.pipelines.imagenet.photographs import PLAIN, REFERENCE, jpegs, seed_all

OURS: tuple[Mode, ...] = ("fast", "device")
GREY_LEVEL = 1 / (255 * 0.224)
"""One grey level in normalised values, for the channel with the smallest scale."""
VARIANTS: dict[str, Recipe] = {
    "reference": REFERENCE,
    "ratio": replace(REFERENCE, ratio=(0.4, 0.5), scale=(0.9, 1.0)),
    "no-flip": replace(REFERENCE, hflip=0.0),
    "bilinear": replace(REFERENCE, interpolation="bilinear"),
    "nearest": replace(REFERENCE, interpolation="nearest", auto_augment=None),
    "rand-n3": replace(REFERENCE, auto_augment="rand-m5-n3-p0.9-mstd101"),
    "v0r": replace(REFERENCE, auto_augment="v0r"),
    "original": replace(REFERENCE, auto_augment="original"),
    "3a-and-jitter": replace(REFERENCE, auto_augment="3a"),
    "jitter": replace(REFERENCE, auto_augment=None),
    "const": replace(REFERENCE, random_erasing=1.0, erasing_mode="const"),
    "rand-4": replace(REFERENCE, random_erasing=1.0, erasing_mode="rand", erasing_count=4),
    "pixel-3": replace(REFERENCE, random_erasing=1.0, erasing_count=3),
}


def loaded(augmentation: Augmentation, seeds: range) -> Batch:
    return collate(list(samples(augmentation, seeds)))


def samples(augmentation: Augmentation, seeds: range) -> Iterator[Sample]:
    for seed in seeds:
        seed_all(seed)
        out = augmentation.image(jpegs()[seed % 2])
        yield (
            Sample(out, 0, (), seed)
            if isinstance(out, Tensor)
            else Sample(out.image_CHW, 0, (), seed, out.drawn)
        )


def augmented(mode: Mode, recipe: Recipe, seeds: range) -> Tensor:
    augmentation = make_train_augmentation(mode, recipe)
    return augmentation.batch(loaded(augmentation, seeds))


def timm_transform(recipe: Recipe) -> Any:
    return create_transform(
        recipe.img_size,
        is_training=True,
        scale=recipe.scale,
        ratio=recipe.ratio,
        interpolation=recipe.interpolation,
        hflip=recipe.hflip,
        auto_augment=recipe.auto_augment,
        color_jitter=recipe.color_jitter,
        re_prob=recipe.random_erasing,
        re_mode=recipe.erasing_mode,
        re_count=recipe.erasing_count,
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_reference_equals_timms_transform_bit_for_bit(name: str) -> None:
    transform, ours = (
        timm_transform(VARIANTS[name]),
        make_train_augmentation("reference", VARIANTS[name]),
    )
    num_compared = 0
    for seed in range(40):
        image = decode_rgb(jpegs()[seed % 2])
        seed_all(seed)
        try:
            expected = transform(image)
        except ValueError:  # timm's posterize to 0 bits
            continue
        num_compared += 1
        assert torch.equal(next(samples(ours, range(seed, seed + 1))).image_CHW, expected)  # type: ignore[arg-type]
    assert num_compared > 30


def test_reference_leaves_no_operations_for_the_batch() -> None:
    augmentation = make_train_augmentation("reference", REFERENCE)
    batch = loaded(augmentation, range(2))
    assert batch.draws is None
    assert augmentation.batch(batch) is batch.images_BCHW


@pytest.mark.parametrize("mode", OURS)
def test_crops_and_flips_match_timm_within_a_grey_level(mode: Mode) -> None:
    for recipe in (
        PLAIN,
        replace(PLAIN, interpolation="bilinear"),
        replace(PLAIN, scale=(1.0, 1.0), ratio=(3.0, 3.0)),
    ):
        error = augmented(mode, recipe, range(30)) - augmented("reference", recipe, range(30))
        assert error.abs().max() < 1.01 * GREY_LEVEL


@pytest.mark.parametrize("mode", OURS)
@pytest.mark.parametrize("name", VARIANTS)
def test_all_modes_agree_for_one_seed(name: str, mode: Mode) -> None:
    """A difference of one grey level in the crop can become many, if an operation has a threshold
    or spreads close values."""
    error = (
        augmented(mode, VARIANTS[name], range(60))
        - augmented("reference", VARIANTS[name], range(60))
    ).abs()
    assert error.mean() < 0.3 * GREY_LEVEL
    assert (error.flatten(1).mean(1) < GREY_LEVEL).float().mean() > 0.9
    assert (error > 2.01 * GREY_LEVEL).float().mean() < 0.02


def test_comparison_detects_a_wrong_fill_and_a_wrong_order() -> None:
    augmentation = make_train_augmentation("device", REFERENCE)
    wrong_fill = replace(augmentation.batch, fill=(0, 0, 0))  # type: ignore[type-var]
    batch = loaded(augmentation, range(60))
    expected = augmented("reference", REFERENCE, range(60))
    assert (wrong_fill(batch) - expected).abs().mean() > GREY_LEVEL
    assert (augmentation.batch(batch).flip(0) - expected).abs().mean() > GREY_LEVEL


@pytest.mark.parametrize("mode", OURS)
def test_batch_is_sent_to_the_device_as_bytes(mode: Mode) -> None:
    augmentation = make_train_augmentation(mode, REFERENCE)
    batch = loaded(augmentation, range(8)).to(torch.device("cpu"))
    x_BCHW = augmentation.batch(batch)  # noqa: N806
    assert batch.images_BCHW.dtype == torch.uint8
    assert batch.images_BCHW.shape == x_BCHW.shape == (8, 3, 64, 64)
    assert x_BCHW.dtype == torch.float32
    assert x_BCHW.is_contiguous()


@pytest.mark.parametrize("mode", OURS)
def test_both_parts_pickle(mode: Mode) -> None:
    augmentation = pickle.loads(
        pickle.dumps(make_train_augmentation(mode, VARIANTS["3a-and-jitter"]))
    )
    expected = augmented(mode, VARIANTS["3a-and-jitter"], range(8))
    assert torch.equal(augmentation.batch(loaded(augmentation, range(8))), expected)


@pytest.mark.parametrize("mode", OURS)
def test_augmentation_runs_where_torch_must_be_deterministic(mode: Mode) -> None:
    expected = augmented(mode, REFERENCE, range(30))
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.equal(augmented(mode, REFERENCE, range(30)), expected)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("mode", OURS)
def test_network_precision_does_not_affect_the_pixels(mode: Mode) -> None:
    """The trainer augments inside its autocast."""
    expected = augmented(mode, VARIANTS["3a-and-jitter"], range(30))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(augmented(mode, VARIANTS["3a-and-jitter"], range(30)), expected)


@pytest.fixture
def index(tmp_path: Any) -> Index:
    (tmp_path / "train/one").mkdir(parents=True)
    for i in range(12):
        (tmp_path / f"train/one/{i}.jpg").write_bytes(jpegs()[i % 2])
    return load_index(tmp_path, "train", ("one",))


def epoch_of(
    index: Index, mode: Mode, *, num_workers: int, world_size: int = 1, rank: int = 0
) -> Tensor:
    augmentation = make_train_augmentation(mode, REFERENCE)
    loader: DataLoader[Batch] = DataLoader(
        Images(index, augmentation.image, seed=3, substitutes=0),  # type: ignore[arg-type]
        batch_size=6 // world_size,
        sampler=TrainSampler(index, batch_size=6, seed=3, rank=rank, world_size=world_size),
        num_workers=num_workers,
        collate_fn=collate,
        generator=torch.Generator(),
        pin_memory=torch.cuda.is_available(),
    )
    return torch.cat([augmentation.batch(batch) for batch in loader])


@pytest.mark.parametrize("mode", OURS)
def test_draws_depend_only_on_seed_epoch_and_image(index: Index, mode: Mode) -> None:
    """Draws depend neither on loader processes nor on the number of ranks that share a batch."""
    alone = epoch_of(index, mode, num_workers=0)
    assert torch.equal(alone, epoch_of(index, mode, num_workers=2))
    ranks = [epoch_of(index, mode, num_workers=0, world_size=2, rank=rank) for rank in (0, 1)]
    assert torch.equal(alone, torch.stack(ranks, dim=1).flatten(0, 1))


def test_last_of_overlapping_erasures_wins() -> None:
    values = torch.arange(12.0).view(3, 2, 2)
    colour = torch.full((3, 1, 1), -1.0)
    drawn = [Drawn((), ()), Drawn((), (Erasure(0, 0, 2, 2, values), Erasure(1, 1, 2, 3, colour)))]
    x_BCHW = torch.full((2, 3, 4, 5), 50.0)  # noqa: N806
    erase(x_BCHW, collate_draws(drawn))
    assert x_BCHW[0].eq(50).all()
    assert x_BCHW[1, 0].tolist() == [
        [0, 1, 50, 50, 50],
        [2, -1, -1, -1, 50],
        [50, -1, -1, -1, 50],
        [50] * 5,
    ]
    assert x_BCHW[1, 2, 0, 0] == 8


def test_batch_of_another_mode_is_refused() -> None:
    batch = loaded(make_train_augmentation("reference", REFERENCE), range(2))
    with pytest.raises(AssertionError, match="another augmentation"):
        make_train_augmentation("device", REFERENCE).batch(batch)


def test_draws_are_grouped_by_layer_and_operation() -> None:
    batch = loaded(make_train_augmentation("device", REFERENCE), range(40))
    assert batch.draws is not None
    assert {name for layer in batch.draws.layers for name, _ in layer} > {
        "affine",
        "equalize",
        "color",
    }
    assert len(batch.draws.table_N7) == sum(
        count for layer in batch.draws.layers for _, count in layer
    )
    assert isinstance(make_train_augmentation("device", REFERENCE).image(jpegs()[0]), Augmented)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning")
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("mode", OURS)
def test_gpu_never_makes_the_host_wait(mode: Mode) -> None:
    augmentation = make_train_augmentation(mode, REFERENCE)
    batch = loaded(augmentation, range(64)).to(torch.device("cuda"))
    expected = augmentation.batch(batch)  # constants are copied to the device once
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = augmentation.batch(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(again, expected)
    assert (expected.cpu() - augmented(mode, REFERENCE, range(64))).abs().mean() < 0.1 * GREY_LEVEL
    assert np.isfinite(expected.cpu().numpy()).all()
