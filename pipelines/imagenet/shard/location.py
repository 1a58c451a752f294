"""The location of shards, a folder or a prefix in S3: lists shards, reads and writes small files,
and transfers shards."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from orchestrator.errors import DataError, escaped
from pipelines.data.faults import reason
from pipelines.data.s3 import DataBucket, is_remote
from pipelines.data.text import check_names
from pipelines.imagenet.source import SPLITS, Split

Sizes = Mapping[Split, Mapping[str, int]]
"""Sizes in bytes by name, for each split that has shards."""


class ShardLocation(Protocol):
    """A location of shards; names are relative to it. Raises DataError for anything that cannot be
    read or written."""

    @property
    def uri(self) -> str: ...

    def find_shards(self) -> Sizes: ...

    def read(self, name: str) -> bytes | None:
        """Read a small file; None if it does not exist."""

    def write(self, name: str, content: bytes) -> None:
        """Write a small file atomically."""

    def put(self, name: str, path: Path) -> None:
        """Move the local file `path` here atomically."""

    def fetch(self, name: str, path: Path) -> None:
        """Copy a shard to the existing local file `path`."""

    def delete(self, name: str) -> None: ...


def open_location(location: str) -> ShardLocation:
    return BucketLocation(location) if is_remote(location) else FolderLocation(Path(location))


def split_of(name: str) -> Split | None:
    """The split of a shard: `train/*.tar` and `train-*.tar`, likewise for val; None for any other
    name."""
    for split in SPLITS:
        if name.endswith(".tar") and "/." not in name:
            if name.startswith(f"{split}/") and name.count("/") == 1:
                return split
            if name.startswith(f"{split}-") and "/" not in name:
                return split
    return None


class FolderLocation:
    """A folder of this machine, or one that many machines share."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def uri(self) -> str:
        return str(self.root)

    def find_shards(self) -> Sizes:
        with self._errors():
            names = [
                *_tars(self.root, ""),
                *_tars(self.root / "train", "train/"),
                *_tars(self.root / "val", "val/"),
            ]
            check_names(self.root, names)
            return by_split({name: (self.root / name).stat().st_size for name in names})

    def read(self, name: str) -> bytes | None:
        with self._errors():
            try:
                return (self.root / name).read_bytes()
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        with self._errors():
            partial = self.root / f".{name}.{uuid.uuid4().hex}.partial"
            self.root.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(content)
            partial.replace(self.root / name)

    def put(self, name: str, path: Path) -> None:
        with self._errors():
            path.replace(self.root / name)

    def fetch(self, name: str, path: Path) -> None:
        raise AssertionError("shards in a folder are read in place")

    def delete(self, name: str) -> None:
        with self._errors():
            (self.root / name).unlink(missing_ok=True)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as err:
            raise DataError(
                f"{escaped(str(err.filename or self.root))}: cannot be read or written: "
                f"{reason(err)}"
            ) from err


class BucketLocation:
    """A prefix in S3."""

    def __init__(self, uri: str) -> None:
        self._bucket = DataBucket(uri)

    @property
    def uri(self) -> str:
        return self._bucket.uri

    def find_shards(self) -> Sizes:
        sizes: dict[str, int] = {}
        for split in SPLITS:
            # This avoids listing a million images in class folders next to the shards.
            for prefix in (
                f"{split}/",
                f"{split}-",
            ):
                sizes |= self._bucket.sizes(prefix)
        return by_split(sizes)

    def read(self, name: str) -> bytes | None:
        return self._bucket.read(name)

    def write(self, name: str, content: bytes) -> None:
        self._bucket.write(name, content)

    def put(self, name: str, path: Path) -> None:
        self._bucket.upload(name, path)
        path.unlink()

    def fetch(self, name: str, path: Path) -> None:
        self._bucket.download(name, path)

    def delete(self, name: str) -> None:
        self._bucket.delete(name)


def by_split(sizes: Mapping[str, int]) -> Sizes:
    found: dict[Split, dict[str, int]] = {}
    for name in sorted(sizes):
        split = split_of(name)
        if split is not None:
            found.setdefault(split, {})[name] = sizes[name]
    return found


def _tars(folder: Path, prefix: str) -> Iterator[str]:
    if folder.is_dir():
        with os.scandir(folder) as entries:
            names = [f"{prefix}{entry.name}" for entry in entries if entry.name.endswith(".tar")]
        yield from (name for name in names if split_of(name))
