"""Writes images of any layout as shuffled shards with an index: the same bytes each time, the index
last."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orchestrator.artifact import digest_of
from orchestrator.errors import DataError
from pipelines.data.digests import digest_of_file
from pipelines.data.faults import reason
from pipelines.imagenet.class_map import CLASSES_NAME
from pipelines.imagenet.layouts import load_classes
from pipelines.imagenet.shard.index import INDEX_NAME, Shard, ShardIndex, check_shards, parse_index
from pipelines.imagenet.shard.location import FolderLocation, ShardLocation
from pipelines.imagenet.shard.tar import Encoded, Member, key_of, write_tar
from pipelines.imagenet.source import SPLITS, ImageFiles, ImageSource, Split, sample_key

MARK_NAME = "writing.json"
"""Name of a file that exists while shards are written. If it is left over from an unfinished run,
all tar files there are ours."""
VERSION = 1
"""Increased when the same images give other shards."""
SEED = 0
"""Seed of the order in which images go into shards. In class order, a shuffle of blocks would not
mix classes."""

OnShard = Callable[[Shard, int, int], None]
"""Called with each written shard, its number from 1, and the total number of shards."""


@dataclass(frozen=True)
class ShardSummary:
    """Numbers of shards and images, and of shards written: 0 if all existed already."""

    num_shards: int
    num_images: int
    num_written: int


def write_shards(
    images: ImageFiles, location: ShardLocation, *, images_per_shard: int, on_shard: OnShard
) -> ShardSummary:
    """Write train-*.tar and val-*.tar of `images`, classes.txt and, last, index.json to `location`.

    Raises DataError if an image cannot be read, or if the location holds other shards.
    """
    classes = load_classes(images, num_classes=None)
    made_from = digest_of([VERSION, SEED, images_per_shard, classes, images.digest(SPLITS)])
    held = location.read(INDEX_NAME)
    if held is not None:
        return _held(parse_index(held, location.uri), made_from, location)
    sources = {split: images.source(split, classes) for split in SPLITS}
    names = {
        split: _shard_names(split, len(source), images_per_shard)
        for split, source in sources.items()
    }
    _claim(location, {name for of_split in names.values() for name in of_split})
    shards = _write_all(sources, names, images_per_shard, location, on_shard)
    location.write(CLASSES_NAME, "".join(f"{name}\n" for name in classes).encode())
    location.write(INDEX_NAME, ShardIndex(classes, shards, made_from).to_json())
    location.delete(MARK_NAME)
    num_shards = sum(map(len, shards.values()))
    return ShardSummary(num_shards, sum(map(len, sources.values())), num_shards)


def _held(index: ShardIndex, made_from: str, location: ShardLocation) -> ShardSummary:
    check_shards(index, location.find_shards(), location.uri)
    if index.made_from != made_from:
        raise DataError(
            f"{location.uri}: holds shards of other images or another shard size; delete them or "
            "choose another location"
        )
    shards = [shard for of_split in index.shards.values() for shard in of_split]
    return ShardSummary(len(shards), sum(map(len, shards)), 0)


def _claim(location: ShardLocation, wanted: set[str]) -> None:
    """Mark the location as ours, and delete tar files of an unfinished run that this run will not
    overwrite."""
    there = {name for sizes in location.find_shards().values() for name in sizes}
    if there and location.read(MARK_NAME) is None:
        raise DataError(
            f"{location.uri}: holds {len(there)} tar files from another source; choose an empty "
            "location"
        )
    location.write(MARK_NAME, b"{}\n")
    for name in sorted(there - wanted):
        location.delete(name)


def _shard_names(split: Split, num_images: int, images_per_shard: int) -> list[str]:
    return [f"{split}-{number:06d}.tar" for number in range(-(-num_images // images_per_shard))]


def _write_all(
    sources: dict[Split, ImageSource],
    names: dict[Split, list[str]],
    images_per_shard: int,
    location: ShardLocation,
    on_shard: OnShard,
) -> dict[Split, tuple[Shard, ...]]:
    total = sum(map(len, names.values()))
    shards: dict[Split, tuple[Shard, ...]] = {}
    number = 0
    for seed, (split, source) in enumerate(sources.items()):
        order = np.random.default_rng([SEED, seed]).permutation(len(source))
        members = _member_names(source.names)
        written = []
        for start, name in zip(range(0, len(order), images_per_shard), names[split], strict=True):
            chosen = (int(one) for one in order[start : start + images_per_shard])
            shard = _write_one(name, _encoded(source, members, chosen), location)
            number += 1
            on_shard(shard, number, total)
            written.append(shard)
        shards[split] = tuple(written)
    return shards


def _write_one(name: str, images: Iterator[Encoded], location: ShardLocation) -> Shard:
    """Write one shard. For a folder it is written to a temporary folder inside it, so that the move
    is atomic."""
    parent = location.root if isinstance(location, FolderLocation) else None
    try:
        with tempfile.TemporaryDirectory(prefix=".writing-", dir=parent) as folder:
            path = Path(folder) / name
            members: list[Member] = write_tar(path, images)
            shard = Shard.of(
                name, size=path.stat().st_size, sha256=digest_of_file(path), members=members
            )
            location.put(name, path)
            path.unlink(missing_ok=True)
    except OSError as err:
        raise DataError(f"{location.uri}/{name}: cannot be written: {reason(err)}") from err
    return shard


def _encoded(
    source: ImageSource, members: Sequence[str], indices: Iterator[int]
) -> Iterator[Encoded]:
    for index in indices:
        try:
            yield Encoded(members[index], source.labels[index], source.read(index))
        except OSError as err:
            raise DataError(f"{source.names[index]}: cannot be read: {reason(err)}") from err


def _member_names(names: Sequence[str]) -> list[str]:
    """Each image's name in its shard: its key and its suffix.

    Images whose keys would be equal, because they differ only in suffix or dots, get a number.
    """
    taken: dict[str, int] = {}
    members = []
    for name in names:
        key, suffix = sample_key(name), name.rpartition(".")[2]
        taken[key] = taken.get(key, 0) + 1
        unique = key if taken[key] == 1 else f"{key}__{taken[key]}"
        members.append(f"{unique}.{suffix.lower()}")
        assert key_of(members[-1]) == unique
    return members
