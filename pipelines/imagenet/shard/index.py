"""index.json: the location of every image in the shards. With it, a shard is read at any offset and
never scanned."""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.artifact import digest_of
from orchestrator.errors import DataError
from pipelines.data.faults import first_named
from pipelines.data.text import decode_text, parse_json
from pipelines.imagenet.shard.tar import Member
from pipelines.imagenet.source import SPLITS, Split

INDEX_NAME = "index.json"
VERSION = 1


@dataclass(frozen=True)
class Shard:
    """A tar file and the images in it, in the order of the file.

    `name` is relative to the folder of the index; `offsets` and `sizes` are in bytes and refer to
    the image data.
    """

    name: str
    size: int
    sha256: str | None
    members: tuple[str, ...]
    labels: Sequence[int]
    offsets: Sequence[int]
    sizes: Sequence[int]

    def __len__(self) -> int:
        return len(self.members)

    @classmethod
    def of(cls, name: str, *, size: int, sha256: str | None, members: Sequence[Member]) -> Shard:
        return cls(
            name,
            size,
            sha256,
            tuple(member.name for member in members),
            array("i", [member.label for member in members]),
            array("q", [member.offset for member in members]),
            array("q", [member.size for member in members]),
        )

    @property
    def document(self) -> dict[str, Any]:
        columns = {
            "labels": list(self.labels),
            "offsets": list(self.offsets),
            "sizes": list(self.sizes),
        }
        return {
            "name": self.name,
            "size": self.size,
            "sha256": self.sha256,
            "members": list(self.members),
            **columns,
        }


@dataclass(frozen=True)
class ShardIndex:
    """An index of shards. Labels are indices into `classes`; `made_from` is the digest of what the
    writer made the shards from."""

    classes: tuple[str, ...]
    shards: Mapping[Split, tuple[Shard, ...]]
    made_from: str | None = None

    def digest(self, splits: Sequence[Split]) -> str:
        """Digest of classes, shards and images of `splits`, independent of their location."""
        return digest_of(
            [
                self.classes,
                [[shard.document for shard in self.shards.get(split, ())] for split in splits],
            ]
        )

    def to_json(self) -> bytes:
        splits = {
            split: [shard.document for shard in shards] for split, shards in self.shards.items()
        }
        document = {
            "version": VERSION,
            "classes": self.classes,
            "made_from": self.made_from,
            "splits": splits,
        }
        return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


def parse_index(content: bytes, location: str) -> ShardIndex:
    """The index in `content`. Raises DataError, which says how to write a new one, for anything but
    an index of this version."""
    try:
        document = parse_json(decode_text(content, f"{location}/{INDEX_NAME}"))
        if document["version"] != VERSION:
            raise ValueError(f"version {document['version']} instead of {VERSION}")
        classes = tuple(map(str, document["classes"]))
        splits = {
            split: tuple(_parse_shard(one, len(classes)) for one in document["splits"][split])
            for split in SPLITS
            if split in document["splits"]
        }
        return ShardIndex(classes, splits, document["made_from"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as err:
        raise DataError(
            f"{location}/{INDEX_NAME}: not a valid shard index: {err}; {how_to_index(location)}"
        ) from err


def check_shards(
    index: ShardIndex, found: Mapping[Split, Mapping[str, int]], location: str
) -> None:
    """Raises DataError unless the shards `found`, sizes in bytes by name, match the index."""
    listed = {shard.name: shard.size for shards in index.shards.values() for shard in shards}
    there = {name: size for sizes in found.values() for name, size in sizes.items()}
    missing, unlisted = sorted(listed.keys() - there.keys()), sorted(there.keys() - listed.keys())
    other = sorted(name for name in listed.keys() & there.keys() if listed[name] != there[name])
    if missing or unlisted or other:
        raise DataError(
            f"{location}/{INDEX_NAME}: does not match the shards; missing: "
            f"{first_named(missing)}; not in the index: {first_named(unlisted)}; different size: "
            f"{first_named(other)}; copy the shards again, or {how_to_index(location)}"
        )


def how_to_index(location: str) -> str:
    return f"write a new index: python -m pipelines.imagenet.shard --index {location}"


def _parse_shard(document: Mapping[str, Any], num_classes: int) -> Shard:
    shard = Shard(
        str(document["name"]),
        int(document["size"]),
        document["sha256"],
        tuple(document["members"]),
        array("i", document["labels"]),
        array("q", document["offsets"]),
        array("q", document["sizes"]),
    )
    if len({len(shard), len(shard.labels), len(shard.offsets), len(shard.sizes)}) != 1:
        raise ValueError(f"{shard.name}: its lists have different lengths")
    if len(shard) and not (min(shard.labels) >= 0 and max(shard.labels) < num_classes):
        raise ValueError(f"{shard.name}: a label is out of range: there are {num_classes} classes")
    ends = map(sum, zip(shard.offsets, shard.sizes, strict=True))
    if len(shard) and not (min(shard.offsets) >= 0 and max(ends) <= shard.size):
        raise ValueError(f"{shard.name}: an image lies outside the shard")
    return shard
