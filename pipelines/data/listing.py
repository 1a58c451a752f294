"""Lists the objects of a data set in S3 that a stage needs: a tree of files, or the archives that
its authors publish.

Imports no torch; nothing here downloads the data.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from orchestrator.artifact import digest_of
from orchestrator.errors import DataError
from orchestrator.s3.bucket import Object
from pipelines.data.archives import is_data
from pipelines.data.faults import DataFaults
from pipelines.data.s3 import DataBucket
from pipelines.data.text import decode_text

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
DIGESTS = "SHA256SUMS"
"""Optional file next to the data, in the format of `sha256sum`; it may cover any of the objects."""
_SHA256_CHARACTERS = 64


class Piece(NamedTuple):
    """A part of a data set: `names` are tried in order; a folder ends in `/`."""

    names: tuple[str, ...]
    archives: tuple[str, ...]
    """Names, without suffix, of archives that may hold it."""


def _coco(split: str) -> tuple[Piece, ...]:
    annotations = Piece(
        (f"annotations/instances_{split}2017.json",), ("annotations_trainval2017", "annotations")
    )
    return Piece((f"{split}2017/",), (f"{split}2017",)), annotations


def _ade20k(split: str) -> tuple[Piece, ...]:
    archives = ("ADEChallengeData2016",)
    classes = Piece(("classes.json", "classes.txt", "objectInfo150.txt"), archives)
    return (
        Piece((f"images/{split}/",), archives),
        Piece((f"annotations/{split}/",), archives),
        classes,
    )


PIECES: Mapping[str, Mapping[str, tuple[Piece, ...]]] = {
    "coco": {split: _coco(split) for split in ("train", "val")},
    "ade20k": {split: _ade20k(split) for split in ("training", "validation")},
}
"""The pieces of each layout and split."""


@dataclass(frozen=True)
class Listed:
    """An object that is needed; `sha256` is None if its publisher does not state it."""

    object: Object
    sha256: str | None

    @property
    def is_archive(self) -> bool:
        return self.object.name.endswith(ARCHIVE_SUFFIXES)

    @property
    def identity(self) -> str:
        """Identifies the object's bytes and name, as far as a listing shows."""
        return digest_of([self.object.name, self.object.size, self.sha256 or self.object.etag])


@dataclass(frozen=True)
class RemoteListing:
    """The objects of some splits of a data set."""

    uri: str
    layout: str
    objects: tuple[Listed, ...]

    @property
    def digest(self) -> str:
        """Digest of names, sizes and sha256 (ETag if SHA256SUMS lacks the object); independent of
        the location."""
        return digest_of(["objects", sorted(one.identity for one in self.objects)])

    @property
    def needed(self) -> tuple[str, ...]:
        """Names of the files and folders in the layout; a folder ends in `/`."""
        pieces = dict.fromkeys(piece for pieces in PIECES[self.layout].values() for piece in pieces)
        return tuple(name for piece in pieces for name in piece.names)

    def wanted(self, path: str) -> str | None:
        """The path in the layout for a file of an archive, with or without one enclosing folder;
        None if it has none."""
        if not is_data(path):
            return None
        for name in (path, path.partition("/")[2]):
            for piece in (piece for pieces in PIECES[self.layout].values() for piece in pieces):
                if any(
                    name.startswith(one) if one.endswith("/") else name == one
                    for one in piece.names
                ):
                    return name
        return None


def list_remote(uri: str, layout: str, splits: Collection[str]) -> RemoteListing:
    """List the objects of `splits` in S3; one request for archives, one per 1000 files of a tree.

    Raises DataError, which says what is missing, and UnreachableError if the server does not
    answer.
    """
    bucket = DataBucket(uri)
    top = {one.name: one for one in bucket.objects("", deep=False)}
    digests = _read_digests(bucket) if DIGESTS in top else {}
    faults = DataFaults(uri)
    found: dict[str, Object] = {}
    for piece in dict.fromkeys(piece for split in splits for piece in PIECES[layout][split]):
        objects = list(_find(bucket, top, piece))
        found |= {one.name: one for one in objects}
        if not objects:
            faults.say(f"holds none of {', '.join(piece.names)}, {', '.join(_files(piece))}")
    faults.raise_any("upload the data set there, or correct `data`")
    return RemoteListing(
        bucket.uri, layout, tuple(Listed(found[name], digests.get(name)) for name in sorted(found))
    )


def _find(bucket: DataBucket, top: Mapping[str, Object], piece: Piece) -> Iterator[Object]:
    """The files of a piece, or an archive that holds it."""
    files = [one for name in piece.names for one in _files_of(bucket, top, name)]
    archives = [top[name] for name in _files(piece) if name in top]
    yield from files or archives[:1]


def _files_of(bucket: DataBucket, top: Mapping[str, Object], name: str) -> Sequence[Object]:
    if "/" not in name:
        return [top[name]] if name in top else []
    objects = bucket.objects(name, deep=True)
    # S3 consoles create empty objects as folders.
    return [
        one
        for one in objects
        if not one.name.endswith("/") and "/." not in one.name and is_data(one.name)
    ]


def _files(piece: Piece) -> list[str]:
    return [stem + suffix for stem in piece.archives for suffix in ARCHIVE_SUFFIXES]


def _read_digests(bucket: DataBucket) -> dict[str, str]:
    text = decode_text(bucket.read(DIGESTS) or b"", f"{bucket.uri}/{DIGESTS}")
    digests: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        digest, _, name = line.partition(" ")
        if len(digest) != _SHA256_CHARACTERS or not name.strip():
            raise DataError(
                f"{bucket.uri}/{DIGESTS}:{number}: must be `<sha256>  <name>`, as sha256sum writes "
                "it"
            )
        digests[name.lstrip(" *").removeprefix("./")] = digest.lower()
    return digests
