"""The shard layout as ImageFiles: opens the index, makes a missing one for local shards, and checks
it against them."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path

from orchestrator.artifact import digest_of
from orchestrator.cache_room import cache_folder
from orchestrator.errors import DataError
from pipelines.data.digests import CONTENT_LIMIT_BYTES, digests_of_files
from pipelines.data.faults import data_errors, first_named
from pipelines.imagenet.shard.cache import ShardCache
from pipelines.imagenet.shard.index import (
    INDEX_NAME,
    Shard,
    ShardIndex,
    check_shards,
    how_to_index,
    parse_index,
)
from pipelines.imagenet.shard.indexing import make_index
from pipelines.imagenet.shard.location import FolderLocation, ShardLocation, Sizes
from pipelines.imagenet.shard.source import (
    SHARDS_IN_SHUFFLE,
    CachedFiles,
    FolderFiles,
    ShardFiles,
    ShardSource,
)
from pipelines.imagenet.source import Split


class Shards:
    """The images in the shards at a location. `limit_bytes` limits the disk space for shards read
    from S3; shards in a folder are read in place."""

    def __init__(self, location: ShardLocation, *, limit_bytes: float) -> None:
        self._location, self._limit_bytes = location, limit_bytes

    @property
    def location(self) -> str:
        return self._location.uri

    def classes_in(self, split: Split) -> tuple[str, ...]:
        present = {label for shard in self._shards(split) for label in set(shard.labels)}
        return tuple(name for label, name in enumerate(self._index.classes) if label in present)

    def source(self, split: Split, classes: tuple[str, ...]) -> ShardSource:
        present = self.classes_in(split)
        missing = [name for name in self._index.classes if name not in set(present)]
        if missing or classes != present:
            raise DataError(
                f"{self.location}: {split} has no images of the classes "
                f"{first_named(missing or sorted(classes))}; write the shards again, with images "
                "of every class in both splits"
            )
        shards = self._shards(split)
        return ShardSource(classes, shards, self._files(shards), self.location)

    def digest(self, splits: Sequence[Split]) -> str:
        """Digest from the index only. Shards on disk that are small enough to be hashed are
        compared with it."""
        shards = [shard for split in splits for shard in self._shards(split)]
        if (
            isinstance(self._location, FolderLocation)
            and sum(shard.size for shard in shards) <= CONTENT_LIMIT_BYTES
        ):
            _check_bytes(self._location, shards)
        return self._index.digest(splits)

    def _shards(self, split: Split) -> tuple[Shard, ...]:
        shards = self._index.shards.get(split, ())
        if not any(map(len, shards)):
            raise DataError(
                f"{self.location}: holds no images of {split}; put its shards in {split}/*.tar or "
                f"{split}-*.tar"
            )
        return shards

    def _files(self, shards: Sequence[Shard]) -> ShardFiles:
        if isinstance(self._location, FolderLocation):
            return FolderFiles(self._location.root)
        largest = sorted((shard.size for shard in shards), reverse=True)[:SHARDS_IN_SHUFFLE]
        if sum(largest) > self._limit_bytes:
            raise DataError(
                f"{self.location}: cache_gib = {self._limit_bytes / 2**30:g} is too small for the "
                f"{len(largest)} shards ({sum(largest) / 2**30:.3g} GiB) that are read at a time; "
                "raise cache_gib, or write smaller shards"
            )
        return CachedFiles(self._location, ShardCache(cache_folder() / "shards", self._limit_bytes))

    @cached_property
    def _index(self) -> ShardIndex:
        found = self._location.find_shards()
        content = self._location.read(INDEX_NAME)
        if content is None:
            return self._made_index(found)
        index = parse_index(content, self.location)
        check_shards(index, found, self.location)
        return index

    def _made_index(self, found: Sizes) -> ShardIndex:
        if not found:
            raise DataError(
                f"{self.location}: holds no shards; put them in train/*.tar or train-*.tar, and "
                "likewise for val"
            )
        if not isinstance(self._location, FolderLocation):
            raise DataError(
                f"{self.location}: the shards have no {INDEX_NAME}; {how_to_index(self.location)}"
            )
        return _index_of_folder(self._location, found)


def _index_of_folder(location: FolderLocation, found: Sizes) -> ShardIndex:
    """The index of a folder without one: the first process that needs it scans the shards, and
    stores it next to them or, if they are read-only, in the cache."""
    kept = _kept_index(location, found)
    with _locked(kept.with_suffix(".lock")):
        for content in (location.read(INDEX_NAME), FolderLocation(kept.parent).read(kept.name)):
            if content is not None:
                index = parse_index(content, location.uri)
                check_shards(index, found, location.uri)
                return index
        total_bytes = sum(size for sizes in found.values() for size in sizes.values())
        index = make_index(location, found, with_sha256=total_bytes <= CONTENT_LIMIT_BYTES)
        try:
            location.write(INDEX_NAME, index.to_json())
        except DataError:
            FolderLocation(kept.parent).write(kept.name, index.to_json())
        return index


def _kept_index(location: FolderLocation, found: Sizes) -> Path:
    """Path of the cached index for exactly these shards: its name depends on their modification
    times."""
    with data_errors(location.uri):
        times = {
            name: (location.root / name).stat().st_mtime_ns
            for sizes in found.values()
            for name in sizes
        }
    return (
        cache_folder()
        / "indices"
        / f"{digest_of([str(location.root.absolute()), found, times])[:40]}.json"
    )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with ExitStack() as held:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fcntl.flock(held.enter_context(path.open("a")), fcntl.LOCK_EX)
        except OSError as err:
            raise DataError(
                f"{path.parent}: cannot be written or locked: {err.strerror}; set XDG_CACHE_HOME "
                "to a folder on a local disk"
            ) from err
        yield


def _check_bytes(location: FolderLocation, shards: Sequence[Shard]) -> None:
    described = {shard.name: shard.sha256 for shard in shards if shard.sha256 is not None}
    digests = zip(described, digests_of_files(location.root, list(described)), strict=True)
    other = [name for name, digest in digests if digest != described[name]]
    if other:
        raise DataError(
            f"{location.uri}/{INDEX_NAME}: does not match the bytes of {first_named(other)}; copy "
            f"them again, or {how_to_index(location.uri)}"
        )
