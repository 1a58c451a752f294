"""A source with part of a split's images: the same fraction of each class, for any seed or
layout."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from pipelines.imagenet.source import ImageSource

_DIGEST_BYTES = 8
"""Bytes of an image's rank. Among 1.3 million images two ranks are equal once in 20 million times;
then the image that comes first in the source is ranked first."""


def take_fraction(source: ImageSource, fraction: float) -> ImageSource:
    """`fraction` of the images of each class, rounded, and at least one; `source` itself if
    `fraction` is 1.

    Images are ranked within their class by a hash of their key. So a smaller fraction is part of a
    larger one, and shards hold the same part as the files that they were made from.
    """
    return source if fraction == 1 else Subset(source, _chosen(source, fraction))


class Subset:
    """The images of `source` at `indices`, which are in ascending order."""

    def __init__(self, source: ImageSource, indices: NDArray[np.int64]) -> None:
        self._source, self._indices = source, indices
        self._labels = array("i", np.asarray(source.labels, np.int32)[indices].tolist())

    def __len__(self) -> int:
        return len(self._indices)

    @property
    def classes(self) -> tuple[str, ...]:
        return self._source.classes

    @property
    def labels(self) -> Sequence[int]:
        return self._labels

    @property
    def names(self) -> Sequence[str]:
        return _Chosen(self._source.names, self._indices)

    def sample_keys(self) -> Iterator[str]:
        is_chosen = np.zeros(len(self._source), np.bool_)
        is_chosen[self._indices] = True
        return (
            key for key, chosen in zip(self._source.sample_keys(), is_chosen, strict=True) if chosen
        )

    def read(self, index: int) -> bytes:
        return self._source.read(int(self._indices[index]))

    def shuffled(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """The chosen images in the order in which the whole source can be read fast."""
        order = self._source.shuffled(rng)
        chosen = order[np.isin(order, self._indices, assume_unique=True)]
        return np.searchsorted(self._indices, chosen)


class _Chosen(Sequence[str]):
    """The entries of `names` at `indices`, looked up when needed."""

    def __init__(self, names: Sequence[str], indices: NDArray[np.int64]) -> None:
        self._names, self._indices = names, indices

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...

    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self._names[int(one)] for one in self._indices[index]]
        return self._names[int(self._indices[index])]


def _chosen(source: ImageSource, fraction: float) -> NDArray[np.int64]:
    """Indices of the images with the lowest ranks of their class, in ascending order."""
    labels = np.asarray(source.labels, np.int64)
    ranks = np.fromiter(map(_rank, source.sample_keys()), np.uint64, count=len(source))
    # Stable: images with equal ranks stay in the source's order.
    by_class = np.lexsort((ranks, labels))
    sizes = np.bincount(labels, minlength=len(source.classes))
    parts = [
        by_class[end - size : end - size + _num_chosen(size, fraction)]
        for size, end in zip(sizes.tolist(), np.cumsum(sizes).tolist(), strict=True)
    ]
    return np.sort(np.concatenate(parts))


def _num_chosen(num_images: int, fraction: float) -> int:
    return max(1, round(fraction * num_images))


def _rank(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=_DIGEST_BYTES).digest(), "big")
