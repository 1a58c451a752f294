"""Errors from loader processes arrive unchanged, or as the loss of a process."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from torch.utils.data import Sampler

from orchestrator.cluster.failures import is_loss_of_loader
from orchestrator.errors import DataError
from pipelines.imagenet.dataset import Batch, Images, SampleIndex
from pipelines.imagenet.folders import Index
from pipelines.imagenet.loading import Loader
from pipelines.imagenet.transforms import eval_transform
from tests.pipelines.imagenet.test_dataset import encoded, make_index, noise

FAULT = "/data/train-000003.tar: cut short;\nwrite it again"


class CutShort(Index):
    """Images whose sixth one is in a truncated shard."""

    def read(self, index: int) -> bytes:
        if index == 5:
            raise DataError(FAULT)
        return super().read(index)


class InOrder(Sampler[SampleIndex]):
    def __init__(self, num_images: int) -> None:
        self._num_images = num_images

    def __len__(self) -> int:
        return self._num_images

    def __iter__(self) -> Iterator[SampleIndex]:
        return (SampleIndex(0, image) for image in range(self._num_images))


def loader_of(source: Index, *, num_workers: int) -> Loader:
    transform = eval_transform(img_size=16, crop_pct=0.875, interpolation="bicubic")
    images = Images(source, transform, seed=0, substitutes=0)
    return Loader(
        images, InOrder(len(source)), batch_size=2, num_workers=num_workers, pin_memory=False
    )


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return make_index(tmp_path, {f"{i:03d}.png": encoded(noise(seed=i), "PNG") for i in range(200)})


@pytest.mark.parametrize("num_workers", [0, 2])
def test_data_error_has_the_same_text_from_any_process(index: Index, num_workers: int) -> None:
    batches = iter(loader_of(CutShort(**vars(index)), num_workers=num_workers))
    assert [next(batches).indices for _ in range(2)] == [(0, 1), (2, 3)]
    with pytest.raises(DataError) as caught:
        next(batches)
    assert str(caught.value) == FAULT


def is_loss_where_a_process_is_killed(source: Index) -> bool:
    batches = iter(loader_of(source, num_workers=1))
    next(batches)
    # torch has no signal handler in threads, as in Ray's workers.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    (process,) = multiprocessing.active_children()
    process.kill()
    try:
        list(batches)
    except RuntimeError as err:
        return is_loss_of_loader(err)
    return False


def test_killed_loader_process_is_a_lost_attempt(index: Index) -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as apart:
        assert apart.submit(is_loss_where_a_process_is_killed, index).result()


@pytest.mark.parametrize(
    "error", [ConnectionResetError(104, "Connection reset by peer"), EOFError()]
)
def test_loader_killed_with_a_batch_is_a_lost_attempt(index: Index, error: Exception) -> None:
    loader = loader_of(index, num_workers=0)

    class Reset:
        def __iter__(self) -> Iterator[Batch]:
            raise error

    vars(loader)["_batches"] = Reset()
    with pytest.raises(RuntimeError, match=r"is gone: .*(reset by peer|EOFError)") as caught:
        next(iter(loader))
    assert is_loss_of_loader(caught.value)
