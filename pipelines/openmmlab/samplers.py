"""Decides the order of a training's images and their random numbers. Both depend only on (seed,
position).

So a sample does not change with the number of workers or loader processes, with prefetching, or
after a resume.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Dataset, Sampler

from orchestrator.errors import DataError
from pipelines.openmmlab.library import DATA_SAMPLERS, DATASETS, get_dist_info
from pipelines.training.seeding import Stream, seed_generators, seeds

Order = np.ndarray[Any, np.dtype[np.int64]]


class SamplePosition(NamedTuple):
    """The image at a position of the whole training, counted over all workers."""

    position: int
    image: int


class SeededDataset(Dataset[Any]):
    """A dataset of mmdet or mmseg whose augmentation uses random numbers that depend on the
    position."""

    def __init__(self, dataset: dict[str, Any], seed: int) -> None:
        self._dataset: Any = DATASETS.build(dataset)
        self._seed = seed

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, draw: SamplePosition) -> Any:
        # Not restored afterwards: all code that draws seeds the generators first, as every update
        # does.
        seed_generators(seeds(Stream.IMAGE, self._seed, draw.position))
        return self._dataset[draw.image]

    @property
    def metainfo(self) -> Any:
        return self._dataset.metainfo

    def full_init(self) -> None:
        """Reads the annotations. mmengine calls it before loader processes get their copies.

        Raises DataError if no image to train on is left.
        """
        self._dataset.full_init()
        if len(self) == 0:
            raise DataError(
                "train has no image to train on; images without objects of the job's classes "
                "are left out"
            )

    def is_upright(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """For each image, whether it is taller than wide, by the sizes in the annotations."""
        infos = map(self._dataset.get_data_info, range(len(self)))
        return np.fromiter((info["width"] < info["height"] for info in infos), np.bool_, len(self))


class _BatchShareSampler(Sampler[SamplePosition]):
    """This worker's part of each batch from `first_batch` on. `first_batch` counts from the start
    of the training.

    The workers' parts follow each other, so a batch holds the same images for any number of
    workers.
    """

    def __init__(self, dataset: SeededDataset, seed: int, batch_size: int) -> None:
        self._dataset, self._seed, self._batch_size = dataset, seed, batch_size
        rank, world_size = get_dist_info()
        self._share = range(batch_size)[
            rank * batch_size // world_size : (rank + 1) * batch_size // world_size
        ]
        self.first_batch = 0

    def _order(self, number: int) -> Order:
        """The shuffled order with this number."""
        return np.random.default_rng(seeds(Stream.ORDER, self._seed, number)).permutation(
            len(self._dataset)
        )


class EpochSampler(_BatchShareSampler):
    """The epoch that contains `first_batch`. To need little padding, the images of a batch are all
    upright or all not.

    The last batches take the remaining images. The epoch's first images fill up the very last
    batch.
    """

    def __init__(self, dataset: SeededDataset, seed: int, batch_size: int) -> None:
        super().__init__(dataset, seed, batch_size)
        self._is_upright = dataset.is_upright()
        self._num_batches = -(-len(dataset) // batch_size)

    def __len__(self) -> int:
        """Samples of a whole epoch, for any `first_batch`."""
        return self._num_batches * len(self._share)

    def __iter__(self) -> Iterator[SamplePosition]:
        epoch, num_done = divmod(self.first_batch, self._num_batches)
        batches = self._grouped(self._order(epoch)).reshape(self._num_batches, self._batch_size)
        for number, batch in enumerate(batches[num_done:], self.first_batch):
            for offset in self._share:
                yield SamplePosition(number * self._batch_size + offset, int(batch[offset]))

    def _grouped(self, order: Order) -> Order:
        """Whole batches of one orientation in the order in which they fill up, then the rest."""
        upright = self._is_upright[order]
        batches, rest = [], []
        for group in (order[upright], order[~upright]):
            num_whole = len(group) // self._batch_size * self._batch_size
            batches += (
                np.split(group[:num_whole], num_whole // self._batch_size) if num_whole else []
            )
            rest.append(group[num_whole:])
        index_of = np.argsort(order)
        batches.sort(key=lambda batch: int(index_of[batch[-1]]))
        return np.resize(
            np.concatenate([*batches, *rest, order]), self._num_batches * self._batch_size
        )


class StreamSampler(_BatchShareSampler):
    """`num_batches` batches from consecutive shuffles; a batch may contain images of two
    shuffles."""

    def __init__(
        self, dataset: SeededDataset, seed: int, batch_size: int, num_batches: int
    ) -> None:
        super().__init__(dataset, seed, batch_size)
        self._num_batches = num_batches

    def __len__(self) -> int:
        """Samples of the whole training, for any `first_batch`."""
        return self._num_batches * len(self._share)

    def __iter__(self) -> Iterator[SamplePosition]:
        number, order = -1, self._order(0)
        for batch in range(self.first_batch, self._num_batches):
            for offset in self._share:
                position = batch * self._batch_size + offset
                shuffle, where = divmod(position, len(self._dataset))
                if shuffle != number:
                    number, order = shuffle, self._order(shuffle)
                yield SamplePosition(position, int(order[where]))


DATASETS.register_module(name="SeededDataset", module=SeededDataset)
DATA_SAMPLERS.register_module(name="EpochSampler", module=EpochSampler)
DATA_SAMPLERS.register_module(name="StreamSampler", module=StreamSampler)
