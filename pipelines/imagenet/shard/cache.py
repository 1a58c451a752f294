"""Shards of S3 on this machine's disk: each fetched once for all processes, the least recently used
evicted."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import DataError
from pipelines.data.digests import digest_of_file
from pipelines.imagenet.shard.index import Shard, how_to_index
from pipelines.imagenet.shard.location import ShardLocation

FETCHES = 2
"""Tries at a shard whose bytes do not match the index: a transfer may go wrong once."""


@dataclass(frozen=True)
class ShardCache:
    """`folder` is shared by all processes of this user on the machine and by all locations in S3.

    A shard is whole under its name, or a `.partial` of its full length while it is fetched. A
    process that has one open still reads it after it was evicted.
    """

    folder: Path
    limit_bytes: float

    def open(self, location: ShardLocation, shard: Shard) -> int:
        """A file descriptor of the shard, which is fetched first where it is not kept yet."""
        path = self.folder / f"{_identity(location, shard)}.tar"
        with self._errors():
            self.folder.mkdir(parents=True, exist_ok=True)
            with _locked(path.with_suffix(".lock")):
                try:
                    descriptor = os.open(path, os.O_RDONLY)
                except FileNotFoundError:
                    return self._fetch(location, shard, path)
                # A crash of the machine may leave that.
                if os.fstat(descriptor).st_size != shard.size:
                    os.close(descriptor)
                    return self._fetch(location, shard, path)
                os.utime(path)
                return descriptor

    def _fetch(self, location: ShardLocation, shard: Shard, path: Path) -> int:
        partial = path.with_suffix(".partial")
        for _ in range(FETCHES):
            self._reserve(partial, shard.size)
            location.fetch(shard.name, partial)
            if partial.stat().st_size != shard.size:
                break
            if shard.sha256 in (None, digest_of_file(partial)):
                descriptor = os.open(partial, os.O_RDONLY)  # before others see it and may evict it
                partial.replace(path)
                return descriptor
        partial.unlink()
        raise DataError(
            f"{location.uri}/{shard.name}: the shard differs from its description in the index; "
            f"copy it there again, or {how_to_index(location.uri)}"
        )

    def _reserve(self, partial: Path, size: int) -> None:
        """Make `partial` of `size` bytes (without writing any), after as many were evicted as the
        limit asks."""
        with _locked(self.folder / "evicting.lock"):
            partial.unlink(missing_ok=True)
            kept = sorted(self._kept(), key=lambda one: one[1].st_mtime_ns)
            excess = sum(status.st_size for _, status in kept) + size - self.limit_bytes
            for path, status in kept:
                if excess <= 0:
                    break
                if _evict(path):
                    excess -= status.st_size
            with partial.open("wb") as file:
                file.truncate(size)

    def _kept(self) -> Iterator[tuple[Path, os.stat_result]]:
        """Whole shards, partial ones, and what fetches that were killed left behind."""
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.endswith((".tar", ".partial")):
                    try:
                        yield Path(entry.path), entry.stat()
                    except FileNotFoundError:  # a fetch that is done has renamed its partial
                        continue

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as err:
            raise DataError(
                f"{self.folder}: cannot store shards here: {err.strerror}; lower cache_gib, or "
                "set XDG_CACHE_HOME to a folder with enough space"
            ) from err


def _identity(location: ShardLocation, shard: Shard) -> str:
    text = "\n".join([location.uri, shard.name, str(shard.size), str(shard.sha256)])
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def _evict(path: Path) -> bool:
    """Whether `path` was deleted: a partial shard is not while somebody fetches it."""
    if path.suffix == ".tar":
        path.unlink(missing_ok=True)
        return True
    with path.with_suffix(".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        path.unlink(missing_ok=True)
        return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
