"""Caches shards from S3 on this machine's disk: each is fetched once for all processes, the least
recently used is evicted."""

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
"""Tries for a shard whose bytes do not match the index: a transfer may go wrong once."""


@dataclass(frozen=True)
class ShardCache:
    """A cache in `folder`, shared by all processes of this user on the machine and by all locations
    in S3.

    A file with a shard's name is complete; a shard being fetched is a `.partial` of its full
    length. A process that has a shard open can read it even after it was evicted.
    """

    folder: Path
    limit_bytes: float

    def open(self, location: ShardLocation, shard: Shard) -> int:
        """A file descriptor of the shard, which is fetched first if it is not in the cache."""
        path = self.folder / f"{_identity(location, shard)}.tar"
        with self._errors():
            self.folder.mkdir(parents=True, exist_ok=True)
            with _locked(path.with_suffix(".lock")):
                try:
                    descriptor = os.open(path, os.O_RDONLY)
                except FileNotFoundError:
                    return self._fetch(location, shard, path)
                # A crash of the machine may leave a truncated file.
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
                descriptor = os.open(
                    partial, os.O_RDONLY
                )  # before other processes can see and evict it
                partial.replace(path)
                return descriptor
        partial.unlink()
        raise DataError(
            f"{location.uri}/{shard.name}: the shard differs from its description in the index; "
            f"copy it there again, or {how_to_index(location.uri)}"
        )

    def _reserve(self, partial: Path, size: int) -> None:
        """Create `partial` with `size` bytes (without writing any), after evicting as much as the
        limit requires."""
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
        """Complete shards, partial ones, and remains of fetches that were killed."""
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.endswith((".tar", ".partial")):
                    try:
                        yield Path(entry.path), entry.stat()
                    except FileNotFoundError:  # a finished fetch has renamed its partial file
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
    """Delete `path` and return True; False for a partial shard that is being fetched."""
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
