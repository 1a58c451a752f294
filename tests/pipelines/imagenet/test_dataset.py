"""Decoding of intact and broken files, and draws that depend only on the seed, the epoch and the
image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from pipelines.imagenet.dataset import Batch, Images, SampleIndex, TrainSampler, ValSampler, collate
from pipelines.imagenet.folders import Index, load_index
from pipelines.imagenet.transforms import eval_transform, train_transform
from tests.pipelines.imagenet.photographs import REFERENCE

RECIPE = train_transform(replace(REFERENCE, img_size=16, scale=(0.3, 1.0), random_erasing=0.5))
PLAIN = eval_transform(img_size=16, crop_pct=0.875, interpolation="bicubic")


def noise(mode: str = "RGB", size: int = 24, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image, file_format: str) -> bytes:
    file = BytesIO()
    image.save(file, file_format)
    return file.getvalue()


def make_index(root: Path, files: dict[str, bytes]) -> Index:
    (root / "train/one").mkdir(parents=True)
    for name, content in files.items():
        (root / "train/one" / name).write_bytes(content)
    return load_index(root, "train", ("one",))


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return make_index(tmp_path, {f"{i}.png": encoded(noise(seed=i), "PNG") for i in range(10)})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("grey.png", lambda: encoded(noise("L"), "PNG")),
        ("alpha.png", lambda: encoded(noise("RGBA"), "PNG")),
        ("palette.png", lambda: encoded(noise("P"), "PNG")),
        ("deep.png", lambda: encoded(noise("I").convert("I;16"), "PNG")),
        ("print.jpg", lambda: encoded(noise("CMYK"), "JPEG")),
    ],
)
def test_every_mode_becomes_rgb(tmp_path: Path, name: str, content: Callable[[], bytes]) -> None:
    images = Images(make_index(tmp_path, {name: content()}), PLAIN, seed=0, substitutes=0)
    assert collate([images[SampleIndex(0, 0)]]).images_BCHW.shape == (1, 3, 16, 16)


BROKEN = {
    "empty.png": b"",
    "text.png": b"404 not found",
    "truncated.png": encoded(noise(), "PNG")[:300],
    "truncated.jpg": encoded(noise(size=64), "JPEG")[:900],
    "header.png": encoded(noise(), "PNG")[:20] + b"\xff" * 40,
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_file_is_left_out_and_named(tmp_path: Path, name: str) -> None:
    index = make_index(tmp_path, {"a.png": encoded(noise(), "PNG"), name: BROKEN[name]})
    images = Images(index, PLAIN, seed=0, substitutes=0)
    batch = collate([images[SampleIndex(0, 0)], images[SampleIndex(0, 1)]])
    assert batch.images_BCHW.shape == (1, 3, 16, 16)
    assert batch.labels_B.tolist() == [0]
    assert batch.broken == (f"train/one/{name}",)


def test_broken_training_image_is_replaced_by_the_next(tmp_path: Path) -> None:
    index = make_index(tmp_path, {"a.png": encoded(noise(), "PNG"), "b.png": b"", "c.png": b""})
    images = Images(index, PLAIN, seed=0, substitutes=2)
    sample, neighbour = images[SampleIndex(0, 1)], images[SampleIndex(0, 0)]
    assert sample.broken == ("train/one/b.png", "train/one/c.png")
    assert sample.image_CHW is not None
    assert neighbour.image_CHW is not None
    assert torch.equal(sample.image_CHW, neighbour.image_CHW)


def test_substitute_for_a_broken_image_keeps_its_own_label(tmp_path: Path) -> None:
    index = make_index(tmp_path, {"a.png": b"", "b.png": encoded(noise(), "PNG")})
    images = Images(
        replace(index, classes=("one", "two"), labels=(0, 1)), PLAIN, seed=0, substitutes=1
    )
    assert images[SampleIndex(0, 0)].label == 1


def test_batch_without_a_decodable_image_is_empty(tmp_path: Path) -> None:
    images = Images(make_index(tmp_path, {"a.png": b""}), PLAIN, seed=0, substitutes=3)
    assert len(collate([images[SampleIndex(0, 0)]]).labels_B) == 0


@pytest.mark.parametrize(
    "policy", ["rand-m10-n4-p1-inc1", "rand-m0-n4-p1", "v0", "original-mstd0.5", "3a"]
)
def test_every_policy_runs_at_the_ends_of_its_range(policy: str) -> None:
    """RandAugment's posterize keeps 0 bits there, which Pillow refuses since version 13."""
    transform = train_transform(
        replace(REFERENCE, img_size=8, scale=(0.9, 1.0), hflip=0.0, auto_augment=policy)
    )
    content = encoded(noise(size=8), "PNG")
    assert all(transform(content).isfinite().all() for _ in range(150))


def augmented(index: Index, *, seed: int, epoch: int, num_workers: int) -> torch.Tensor:
    draws = TrainSampler(index, batch_size=5, seed=seed, rank=0, world_size=1)
    draws.epoch = epoch
    loader: DataLoader[Batch] = DataLoader(
        Images(index, RECIPE, seed=seed, substitutes=0),  # type: ignore[arg-type]  # collate makes batches of samples
        batch_size=5,
        sampler=draws,
        num_workers=num_workers,
        collate_fn=collate,
    )
    return torch.cat([batch.images_BCHW for batch in loader])


def test_draws_do_not_depend_on_the_number_of_loader_workers(index: Index) -> None:
    alone = augmented(index, seed=1, epoch=2, num_workers=0)
    assert torch.equal(alone, augmented(index, seed=1, epoch=2, num_workers=2))
    assert not torch.equal(alone, augmented(index, seed=1, epoch=3, num_workers=0))
    assert not torch.equal(alone, augmented(index, seed=2, epoch=2, num_workers=0))


def _draws(*, rank: int = 0, world_size: int = 1) -> TrainSampler:
    """Loads an epoch of 50 images in batches of 12."""
    index = Index(Path(), ("one",), tuple(str(place) for place in range(50)), (0,) * 50)
    return TrainSampler(index, batch_size=12, seed=4, rank=rank, world_size=world_size)


@pytest.mark.parametrize("world_size", [1, 3])
def test_epoch_resumes_after_any_update_with_the_same_draws(world_size: int) -> None:
    for rank in range(world_size):
        straight, resumed = (_draws(rank=rank, world_size=world_size) for _ in range(2))
        resumed.first_update = 3
        left = 12 // world_size
        assert list(resumed) == list(straight)[3 * left :]
        assert len(resumed) == left


@pytest.mark.parametrize("world_size", [2, 3])
def test_global_batches_do_not_depend_on_the_world_size(world_size: int) -> None:
    def batches(world_size: int) -> list[set[SampleIndex]]:
        ranks = [list(_draws(rank=rank, world_size=world_size)) for rank in range(world_size)]
        local = 12 // world_size
        return [
            {draw for rank in ranks for draw in rank[start : start + local]}
            for start in range(0, 4 * local, local)
        ]

    assert batches(world_size) == batches(1)
    assert sum(map(len, batches(1))) == 48


def test_evaluation_draws_every_image_once() -> None:
    shares = [list(ValSampler(10, rank=rank, world_size=3)) for rank in range(3)]
    assert sorted(draw.image for share in shares for draw in share) == list(range(10))
    assert len(ValSampler(10, rank=2, world_size=3)) == len(shares[2]) == 3
