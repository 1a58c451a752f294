"""Makes the index of shards that have none: reads headers and labels once, and with sha256 every
byte."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from orchestrator.errors import DataError
from pipelines.data.digests import digest_of_file
from pipelines.data.text import decode_text
from pipelines.imagenet.class_map import CLASSES_NAME, parse_class_names
from pipelines.imagenet.shard.index import Shard, ShardIndex
from pipelines.imagenet.shard.location import FolderLocation, ShardLocation, Sizes
from pipelines.imagenet.shard.tar import scan_tar
from pipelines.imagenet.source import Split

THREADS = 8
"""Number of shards read at a time: scanning waits for the disk or the network."""

OnShard = Callable[[Shard], None]


def make_index(
    location: ShardLocation, found: Sizes, *, with_sha256: bool, on_shard: OnShard | None = None
) -> ShardIndex:
    """The index of the shards `found` at `location`; `on_shard` is called for each finished shard.

    Classes are the lines of classes.txt or, without it, the labels from 0 to the highest. Raises
    DataError for a shard that is not a complete tar file, or that has labels without a class.
    """
    shards: dict[Split, tuple[Shard, ...]] = {}
    for split, sizes in found.items():
        threads = ThreadPoolExecutor(THREADS)
        try:
            done = threads.map(lambda name: _scan(location, name, with_sha256=with_sha256), sizes)
            shards[split] = tuple(_each_reported(done, on_shard))
        finally:  # after Ctrl-C or a broken shard, skip the rest
            threads.shutdown(cancel_futures=True)
    every = [shard for of_split in shards.values() for shard in of_split]
    return ShardIndex(_classes(location, every), shards)


def _scan(location: ShardLocation, name: str, *, with_sha256: bool) -> Shard:
    with _on_disk(location, name) as path:
        try:
            with path.open("rb") as file:
                members = scan_tar(file, f"{location.uri}/{name}")
        except OSError as err:
            raise DataError(
                f"{location.uri}/{name}: the shard cannot be read: {err.strerror}; copy it again"
            ) from err
        sha256 = digest_of_file(path) if with_sha256 else None
        return Shard.of(name, size=path.stat().st_size, sha256=sha256, members=members)


@contextmanager
def _on_disk(location: ShardLocation, name: str) -> Iterator[Path]:
    """The shard as a local file. A shard in S3 is fetched completely: one request per header would
    take longer."""
    if isinstance(location, FolderLocation):
        yield location.root / name
        return
    with tempfile.NamedTemporaryFile(suffix=".tar") as file:
        location.fetch(name, Path(file.name))
        yield Path(file.name)


def _each_reported(shards: Iterator[Shard], on_shard: OnShard | None) -> Iterator[Shard]:
    for shard in shards:
        if on_shard is not None:
            on_shard(shard)
        yield shard


def _classes(location: ShardLocation, shards: Sequence[Shard]) -> tuple[str, ...]:
    greatest = {max(shard.labels): shard.name for shard in shards if len(shard)}
    if not greatest:
        raise DataError(
            f"{location.uri}: the shards hold no images; add files <key>.jpg with <key>.cls"
        )
    content = location.read(CLASSES_NAME)
    if content is None:
        return tuple(str(label) for label in range(max(greatest) + 1))
    where = f"{location.uri}/{CLASSES_NAME}"
    names = parse_class_names(decode_text(content, where), where)
    if max(greatest) >= len(names):
        raise DataError(
            f"{location.uri}/{greatest[max(greatest)]}: label {max(greatest)} is out of range: "
            f"{where} has {len(names)} classes; correct the labels, or complete {CLASSES_NAME}"
        )
    return names
