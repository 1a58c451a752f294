"""Decodes images in any number of loader processes, with random draws that depend only on (seed,
epoch, image)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler, default_collate

from pipelines.data.image_files import BrokenImageError
from pipelines.imagenet.drawn import BatchDraws, Drawn, collate_draws
from pipelines.imagenet.source import ImageSource
from pipelines.imagenet.transforms import Transform
from pipelines.training.seeding import Stream, seed_generators, seeds


class SampleIndex(NamedTuple):
    """One image to load in one epoch. It carries the epoch, because loader processes outlive
    epochs."""

    epoch: int
    image: int


class Sample(NamedTuple):
    """A loaded image; `image_CHW` is None if nothing could be decoded, and `broken` names the files
    that could not."""

    image_CHW: Tensor | None  # noqa: N815
    label: int
    broken: tuple[str, ...]
    image: int
    """Index of the image that was drawn."""
    drawn: Drawn | None = None
    """Operations that remain for the image; None if the transform leaves none."""


class Batch(NamedTuple):
    images_BCHW: Tensor  # noqa: N815
    labels_B: Tensor  # noqa: N815
    broken: tuple[str, ...]
    indices: tuple[int, ...]
    """Indices of the drawn images, in this order, decoded or not."""
    decoded_indices: tuple[int, ...]
    """Indices of the images in `images_BCHW`, in their order."""
    draws: BatchDraws | None = None
    """Operations that remain for the images, which are then uint8; None if there are none."""

    def to(self, device: torch.device) -> Batch:
        """The batch on `device`; a copy from pinned memory does not block the host."""
        return self._replace(
            images_BCHW=self.images_BCHW.to(device, non_blocking=True),
            labels_B=self.labels_B.to(device, non_blocking=True),
            draws=None if self.draws is None else self.draws.to(device),
        )


class Images(Dataset[Sample]):
    """The images of `source`; a broken image is replaced by the first intact one of the
    `substitutes` images after it.

    Substitutes keep the size of a training batch, which mixup and equal step counts on all ranks
    need. Without substitutes, as in evaluation, a broken image is left out.
    """

    def __init__(
        self, source: ImageSource, transform: Transform, *, seed: int, substitutes: int
    ) -> None:
        self._source, self._transform = source, transform
        self._seed, self._substitutes = seed, substitutes

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, sample: SampleIndex) -> Sample:
        broken: list[str] = []
        for step in range(self._substitutes + 1):
            index = (sample.image + step) % len(self._source)
            try:
                content = self._source.read(index)
                # The generators are not restored afterwards, which would take NumPy 90 us: all code
                # that uses them, such as an update, seeds them first.
                seed_generators(seeds(Stream.IMAGE, self._seed, *sample))
                transformed = self._transform(content)
            except (OSError, BrokenImageError):
                broken.append(self._source.names[index])
                continue
            image_CHW, drawn = (
                (transformed, None) if isinstance(transformed, Tensor) else transformed
            )
            return Sample(image_CHW, self._source.labels[index], tuple(broken), sample.image, drawn)
        return Sample(None, -1, tuple(broken), sample.image)


class TrainSampler(Sampler[SampleIndex]):
    """This rank's part of an epoch's shuffle, without the remainder that does not fill a global
    batch.

    Ranks interleave, so a global batch holds the same images for any number of workers. `epoch` and
    `first_update` select the next pass. Everything is a function of the seed, so a pass can begin
    anywhere.
    """

    def __init__(
        self, source: ImageSource, *, batch_size: int, seed: int, rank: int, world_size: int
    ) -> None:
        self._source, self._batch_size = source, batch_size
        self._num_used = len(source) // batch_size * batch_size
        self._seed, self._rank, self._world_size = seed, rank, world_size
        self.epoch = 0
        self.first_update = 0

    def __len__(self) -> int:
        return (self._num_used - self.first_update * self._batch_size) // self._world_size

    def __iter__(self) -> Iterator[SampleIndex]:
        order = self._source.shuffled(
            np.random.default_rng(seeds(Stream.ORDER, self._seed, self.epoch))
        )
        first = self.first_update * self._batch_size + self._rank
        return (
            SampleIndex(self.epoch, int(index))
            for index in order[first : self._num_used : self._world_size]
        )


class ValSampler(Sampler[SampleIndex]):
    """Every image once over all ranks; no image is repeated to give ranks equal numbers."""

    def __init__(self, num_images: int, *, rank: int, world_size: int) -> None:
        self._indices = range(rank, num_images, world_size)

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator[SampleIndex]:
        return (SampleIndex(0, index) for index in self._indices)


def collate(samples: Sequence[Sample]) -> Batch:
    """The batch of the decoded samples, which may be empty."""
    decoded = [sample for sample in samples if sample.image_CHW is not None]
    drawn = [sample.drawn for sample in decoded if sample.drawn is not None]
    return Batch(
        _stacked([sample.image_CHW for sample in decoded if sample.image_CHW is not None]),
        torch.tensor([sample.label for sample in decoded], dtype=torch.long),
        tuple(path for sample in samples for path in sample.broken),
        tuple(sample.image for sample in samples),
        tuple(sample.image for sample in decoded),
        collate_draws(drawn) if drawn else None,
    )


def _stacked(images: Sequence[Tensor]) -> Tensor:
    """(B, C, H, W). Images with channels last in memory stay so: the device changes the order."""
    if not images:
        return torch.empty(0)
    is_channels_last = images[0].dim() == 3 and images[0].stride(0) == 1  # noqa: PLR2004
    # In a loader process default_collate writes into shared memory, which saves another copy of the
    # batch
    stacked = default_collate(
        [image.permute(1, 2, 0) if is_channels_last else image for image in images]
    )
    batch: Tensor = stacked.permute(0, 3, 1, 2) if is_channels_last else stacked
    return batch
