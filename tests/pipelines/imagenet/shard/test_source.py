"""Shards read back: every image once, over ranks and loader processes, in an order that does not
depend on them."""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Sampler

from pipelines.data.image_files import BrokenImageError
from pipelines.imagenet.dataset import Batch, Images, SampleIndex, TrainSampler, ValSampler, collate
from pipelines.imagenet.layouts import fingerprint, load_classes, open_images
from pipelines.imagenet.shard.source import OPEN_SHARDS, SHARDS_IN_SHUFFLE
from pipelines.imagenet.source import ImageSource, Split
from tests.pipelines.imagenet.shard.conftest import (
    IMAGES_PER_SHARD,
    NUM_TRAIN,
    NUM_VAL,
    ShardSummary,
)

SHARD_BYTES = 10240
"""Size of each shard in these tests: the minimum of a tar file."""


def opened(place: str, split: Split, *, shards_in_cache: int = 1000) -> ImageSource:
    images = open_images(place, cache_gib=shards_in_cache * SHARD_BYTES / 2**30)
    return images.source(split, load_classes(images, num_classes=2))


def number_of(content: bytes) -> torch.Tensor:
    """Size of a tiny image in these tests."""
    if content == b"13":
        raise BrokenImageError
    return torch.tensor([int(content)])


def numbers(
    source: ImageSource, draws: Sampler[SampleIndex], *, num_workers: int, substitutes: int = 1
) -> list[int]:
    """The images that one rank loads, in its order."""
    loader: DataLoader[Batch] = DataLoader(
        Images(source, number_of, seed=0, substitutes=substitutes),  # type: ignore[arg-type]  # collate makes batches
        batch_size=4,
        sampler=draws,
        num_workers=num_workers,
        collate_fn=collate,
    )
    return [int(number) for batch in loader for number in batch.images_BCHW]


def places_loaded(
    source: ImageSource, *, epoch: int, world_size: int, num_workers: int
) -> list[int]:
    """The global order of an epoch: the ranks take turns."""
    ranks: list[Sequence[int]] = []
    for rank in range(world_size):
        draws = TrainSampler(source, batch_size=8, seed=3, rank=rank, world_size=world_size)
        draws.epoch = epoch
        ranks.append(numbers(source, draws, num_workers=num_workers))
    return [number for turn in zip(*ranks, strict=True) for number in turn]


def test_images_names_and_labels_equal_those_of_the_tree(place: str) -> None:
    source = opened(place, "train")
    assert source.classes == ("even", "odd")
    assert len(source) == len(source.labels) == len(source.names) == NUM_TRAIN
    contents = [int(source.read(index)) for index in range(len(source))]
    assert sorted(contents) == list(range(NUM_TRAIN))
    assert [content % 2 for content in contents] == list(source.labels)
    assert source.names[3].startswith("train-000000.tar/")
    assert [Path(name).stem for name in source.names] == [f"{content:03d}" for content in contents]


def test_shards_hold_mixed_classes(local: Path) -> None:
    labels = opened(str(local), "train").labels
    per_shard = [
        set(labels[start : start + IMAGES_PER_SHARD])
        for start in range(0, NUM_TRAIN, IMAGES_PER_SHARD)
    ]
    assert sum(len(one) == 2 for one in per_shard) > len(per_shard) / 2


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_evaluation_reads_every_image_once(place: str, world_size: int, num_workers: int) -> None:
    source = opened(place, "val", shards_in_cache=5)
    shares = [
        numbers(
            source,
            ValSampler(len(source), rank=rank, world_size=world_size),
            num_workers=num_workers,
            substitutes=0,
        )
        for rank in range(world_size)
    ]
    assert sorted(number for share in shares for number in share) == list(
        range(NUM_TRAIN, NUM_TRAIN + NUM_VAL)
    )


@pytest.mark.parametrize(("world_size", "num_workers"), [(1, 2), (2, 0), (4, 2)])
def test_each_epoch_reads_every_image_once_in_its_own_order(
    place: str, caches: Path, world_size: int, num_workers: int
) -> None:
    """Uses a cache for 16 of the 20 shards. Image 13 is broken and is replaced by the next one."""
    alone = opened(place, "train", shards_in_cache=SHARDS_IN_SHUFFLE)
    straight = places_loaded(alone, epoch=1, world_size=1, num_workers=0)
    assert len(straight) == NUM_TRAIN
    assert len(set(straight)) == NUM_TRAIN - 1
    source = opened(place, "train", shards_in_cache=SHARDS_IN_SHUFFLE)
    assert (
        places_loaded(source, epoch=1, world_size=world_size, num_workers=num_workers) == straight
    )
    assert (
        places_loaded(source, epoch=2, world_size=world_size, num_workers=num_workers) != straight
    )
    assert len(list(caches.glob("shards/*.tar"))) in (0, SHARDS_IN_SHUFFLE)


def test_shuffle_reads_few_shards_at_a_time(local: Path) -> None:
    source = opened(str(local), "train")
    order = source.shuffled(np.random.default_rng(7))
    assert sorted(order) == list(range(NUM_TRAIN))
    shards = order // IMAGES_PER_SHARD
    first, rest = (
        set(part.tolist()) for part in np.split(shards, [SHARDS_IN_SHUFFLE * IMAGES_PER_SHARD])
    )
    assert len(first) == SHARDS_IN_SHUFFLE
    assert len(rest) == 4
    assert first.isdisjoint(rest)
    assert len(set(shards[:SHARDS_IN_SHUFFLE].tolist())) > SHARDS_IN_SHUFFLE / 2
    assert order.tolist() == source.shuffled(np.random.default_rng(7)).tolist()
    assert order.tolist() != source.shuffled(np.random.default_rng(8)).tolist()


def test_order_does_not_depend_on_the_shards_location(
    local: Path, bucket: str, write: ShardSummary
) -> None:
    remote = write(f"s3://{bucket}")
    orders = [
        opened(place, "train").shuffled(np.random.default_rng(1)).tolist()
        for place in (str(local), remote)
    ]
    assert orders[0] == orders[1]
    assert fingerprint(str(local), num_classes=2) == fingerprint(remote, num_classes=2)


def test_source_pickles_with_open_files(place: str) -> None:
    source = opened(place, "train")
    content = source.read(5)
    copy = pickle.loads(pickle.dumps(source))
    assert copy.read(5) == content
    assert copy.names[5] == source.names[5]


def _num_open_below(folder: Path) -> int:
    """How many files of the folder this process has open."""
    descriptors = Path("/proc/self/fd").iterdir()
    return sum(os.path.realpath(one).startswith(str(folder)) for one in descriptors)


def test_few_files_are_open_at_a_time(local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.imagenet.shard.source.OPEN_SHARDS", 3)
    source = opened(str(local), "train")
    contents = {source.read(place) for _ in range(2) for place in range(len(source))}
    assert len(contents) == NUM_TRAIN
    assert _num_open_below(local) == 3
    del source
    assert _num_open_below(local) == 0
    assert OPEN_SHARDS > SHARDS_IN_SHUFFLE


def test_broken_image_is_named_with_its_shard(local: Path) -> None:
    source = opened(str(local), "train")
    (place,) = (place for place in range(len(source)) if source.read(place) == b"13")
    sample = Images(source, number_of, seed=0, substitutes=0)[SampleIndex(0, place)]
    shard = f"train-{place // IMAGES_PER_SHARD:06d}.tar"
    assert sample.broken == (f"{shard}/odd/013.png",)
