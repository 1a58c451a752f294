"""The images of a split in shards, as an ImageSource."""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, overload

import numpy as np

from orchestrator.errors import DataError
from pipelines.imagenet.shard.cache import ShardCache
from pipelines.imagenet.shard.index import Shard, how_to_index
from pipelines.imagenet.shard.location import ShardLocation
from pipelines.imagenet.shard.tar import key_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHARDS_IN_SHUFFLE = 16
"""Number of shards whose images are shuffled together: 16,000 images of ImageNet. This many shards
are read at a time."""
OPEN_SHARDS = 2 * SHARDS_IN_SHUFFLE
"""Number of shards that a process keeps open; more than a block, because loaders read ahead into
the next one."""


class ShardFiles(Protocol):
    """Shards as files that can be read at any offset."""

    def open(self, shard: Shard) -> int:
        """Open a shard and return its file descriptor. Raises DataError, which names the shard."""


class FolderFiles:
    """Shards on disk."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def open(self, shard: Shard) -> int:
        path = self._root / shard.name
        try:
            return os.open(path, os.O_RDONLY)
        except OSError as err:
            raise DataError(
                f"{path}: the shard cannot be read: {err.strerror}; copy it there again, or "
                f"{how_to_index(str(self._root))}"
            ) from err


class CachedFiles:
    """Shards in S3, read through this machine's cache."""

    def __init__(self, location: ShardLocation, cache: ShardCache) -> None:
        self._location, self._cache = location, cache

    def open(self, shard: Shard) -> int:
        return self._cache.open(self._location, shard)


class ShardSource:
    """Images in the order of the shards' names. Each process opens the files for itself, as late as
    possible."""

    def __init__(
        self, classes: tuple[str, ...], shards: Sequence[Shard], files: ShardFiles, location: str
    ) -> None:
        self.classes = classes
        self._shards, self._files, self._location = tuple(shards), files, location
        self._starts = [0, *accumulate(len(shard) for shard in shards)]
        self._labels = array("i")
        for shard in shards:
            self._labels.extend(shard.labels)
        self._open: OrderedDict[int, int] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    def __del__(self) -> None:
        for descriptor in self.__dict__.get("_open", {}).values():
            os.close(descriptor)

    def __len__(self) -> int:
        return self._starts[-1]

    @property
    def labels(self) -> Sequence[int]:
        return self._labels

    @property
    def names(self) -> Sequence[str]:
        return _Names(self)

    def sample_keys(self) -> Iterator[str]:
        return (key_of(member) for shard in self._shards for member in shard.members)

    def name(self, index: int) -> str:
        shard, row = self._at(index)
        return f"{self._shards[shard].name}/{self._shards[shard].members[row]}"

    def read(self, index: int) -> bytes:
        number, row = self._at(index)
        shard = self._shards[number]
        try:
            content = os.pread(self._descriptor(number), shard.sizes[row], shard.offsets[row])
        except OSError as err:
            raise DataError(
                f"{self._location}/{shard.name}: the shard cannot be read: {err.strerror}; copy it "
                "there again"
            ) from err
        if len(content) != shard.sizes[row]:
            raise DataError(
                f"{self._location}/{shard.name}: the shard ends before {shard.members[row]}; copy "
                f"it there again, or {how_to_index(self._location)}"
            )
        return content

    def shuffled(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Every index once: shards in random order, in blocks of SHARDS_IN_SHUFFLE whose images are
        permuted together."""
        order = rng.permutation(len(self._shards))
        blocks = (
            order[start : start + SHARDS_IN_SHUFFLE]
            for start in range(0, len(order), SHARDS_IN_SHUFFLE)
        )
        return np.concatenate([rng.permutation(self._indices_in(block)) for block in blocks])

    def _indices_in(self, block: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.concatenate(
            [np.arange(self._starts[shard], self._starts[shard + 1]) for shard in block]
        )

    def _at(self, index: int) -> tuple[int, int]:
        """The number of the shard, and the image's index in it."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect_right(self._starts, index) - 1
        return number, index - self._starts[number]

    def _descriptor(self, number: int) -> int:
        descriptor = self._open.pop(number, None)
        if descriptor is None:
            if len(self._open) >= OPEN_SHARDS:
                os.close(self._open.popitem(last=False)[1])
            descriptor = self._files.open(self._shards[number])
        self._open[number] = descriptor
        return descriptor


class _Names(Sequence[str]):
    """Names that are made when needed: a million of them would take 100 MB in each process."""

    def __init__(self, source: ShardSource) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __iter__(self) -> Iterator[str]:
        return (self._source.name(index) for index in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...

    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self._source.name(one) for one in range(len(self))[index]]
        return self._source.name(range(len(self))[index])
