"""The order of images and their random numbers, for any number of workers and from any batch on."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import DataError
from pipelines.openmmlab import samplers
from pipelines.openmmlab.library import DATASETS
from pipelines.openmmlab.samplers import EpochSampler, SamplePosition, SeededDataset, StreamSampler


class Scenes:
    """A data set in which every `num_wide + 1`th image is upright. A sample is the image's number
    and a random number."""

    metainfo: dict[str, Any] = {}  # noqa: RUF012  # mmengine's datasets have it so

    def __init__(self, length: int, num_wide: int = 2) -> None:
        self._length, self._num_wide = length, num_wide

    def full_init(self) -> None:
        pass

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, image: int) -> tuple[int, float]:
        return image, float(np.random.rand())  # like the transforms of the libraries

    def get_data_info(self, image: int) -> dict[str, int]:
        return {"width": 10, "height": 20 if image % (self._num_wide + 1) == 0 else 5}


DATASETS.register_module(name="Scenes", module=Scenes)


def dataset(length: int) -> SeededDataset:
    return SeededDataset({"type": "Scenes", "length": length}, seed=5)


def drawn(
    monkeypatch: pytest.MonkeyPatch, make: Any, *, world_size: int = 1, first_batch: int = 0
) -> list[list[SamplePosition]]:
    """The samples that each rank draws."""
    ranks = []
    for rank in range(world_size):
        monkeypatch.setattr(samplers, "get_dist_info", lambda rank=rank: (rank, world_size))
        sampler = make()
        sampler.first_batch = first_batch
        ranks.append(list(sampler))
    return ranks


def epoch_of(length: int, batch_size: int) -> EpochSampler:
    return EpochSampler(dataset(length), seed=1, batch_size=batch_size)


def stream_of(length: int, batch_size: int) -> StreamSampler:
    return StreamSampler(dataset(length), seed=1, batch_size=batch_size, num_batches=9)


@pytest.mark.parametrize("make", [epoch_of, stream_of])
def test_batches_hold_the_same_images_for_any_world_size(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (alone,) = drawn(monkeypatch, lambda: make(22, 6))
    parts = drawn(monkeypatch, lambda: make(22, 6), world_size=3)
    assert [len(part) for part in parts] == [len(alone) // 3] * 3
    assert sorted(alone) == sorted(draw for part in parts for draw in part)
    assert [draw.position for draw in parts[1][:4]] == [2, 3, 8, 9]


@pytest.mark.parametrize("make", [epoch_of, stream_of])
@pytest.mark.parametrize("first_batch", [1, 2, 3])
def test_later_start_draws_the_remaining_batches(
    make: Any, first_batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (whole,) = drawn(monkeypatch, lambda: make(22, 6))
    (rest,) = drawn(monkeypatch, lambda: make(22, 6), first_batch=first_batch)
    assert rest == whole[first_batch * 6 :]


@settings(max_examples=50)
@given(length=st.integers(1, 40), batch_size=st.integers(1, 12), epoch=st.integers(0, 3))
def test_epoch_has_every_image_and_only_full_batches(
    length: int, batch_size: int, epoch: int
) -> None:
    sampler = epoch_of(length, batch_size)
    num_batches = -(-length // batch_size)
    sampler.first_batch = epoch * num_batches
    taken = list(sampler)
    assert len(taken) == len(sampler) == num_batches * batch_size
    assert {draw.image for draw in taken} == set(range(length))
    assert len({draw.position for draw in taken}) == len(taken)
    assert all(later.position == earlier.position + 1 for earlier, later in pairwise(taken))


def test_whole_batches_have_one_orientation() -> None:
    sampler = epoch_of(90, 6)  # 30 upright
    images = np.array([draw.image for draw in sampler]).reshape(15, 6)
    upright = (images % 3 == 0).sum(axis=1)
    assert set(upright) == {0, 6}
    assert 6 in upright[:8]
    assert 6 in upright[8:]


def test_epochs_and_seeds_shuffle_differently() -> None:
    sampler = epoch_of(12, 4)
    first = [draw.image for draw in sampler]
    sampler.first_batch = 3
    assert sorted(first) == list(range(12))
    assert first != [draw.image for draw in sampler]
    assert first != [draw.image for draw in EpochSampler(dataset(12), seed=2, batch_size=4)]


def test_stream_takes_every_image_once_per_shuffle() -> None:
    images = [draw.image for draw in stream_of(12, 8)]
    assert [sorted(images[begin : begin + 12]) for begin in range(0, 72, 12)] == [
        list(range(12))
    ] * 6


def test_sample_depends_only_on_seed_and_position() -> None:
    seeded = dataset(8)
    sample = seeded[SamplePosition(3, 2)]
    assert sample[0] == 2
    assert sample != seeded[SamplePosition(4, 2)]
    assert sample == seeded[SamplePosition(3, 2)]
    assert sample != SeededDataset({"type": "Scenes", "length": 8}, seed=6)[SamplePosition(3, 2)]


def test_no_image_to_train_on_is_an_error() -> None:
    with pytest.raises(DataError, match="train has no image to train on"):
        dataset(0).full_init()
