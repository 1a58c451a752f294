"""A data set in S3, as a tree of files or in the archives that its authors publish: what of it a
stage needs.

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
"""Next to the data, as `sha256sum` writes it: optional, and for as many of the objects as one
likes."""
_SHA256_CHARACTERS = 64


class Piece(NamedTuple):
    """A part of a data set: the first of `names` is looked for first; a folder ends in `/`."""

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
"""By layout and split."""


@dataclass(frozen=True)
class Listed:
    """An object that is needed; `sha256` where its publisher says so."""

    object: Object
    sha256: str | None

    @property
    def is_archive(self) -> bool:
        return self.object.name.endswith(ARCHIVE_SUFFIXES)

    @property
    def identity(self) -> str:
        """The same for the same bytes at the same place, as far as a listing shows."""
        return digest_of([self.object.name, self.object.size, self.sha256 or self.object.etag])


@dataclass(frozen=True)
class RemoteListing:
    """What there is of some splits of a data set."""

    uri: str
    layout: str
    objects: tuple[Listed, ...]

    @property
    def digest(self) -> str:
        """Digest of names, sizes and, where SHA256SUMS has them, sha256, else ETags; not of the
        location."""
        return digest_of(["objects", sorted(one.identity for one in self.objects)])

    @property
    def needed(self) -> tuple[str, ...]:
        """Names of the files and folders that the layout has; a folder ends in `/`."""
        pieces = dict.fromkeys(piece for pieces in PIECES[self.layout].values() for piece in pieces)
        return tuple(name for piece in pieces for name in piece.names)

    def wanted(self, path: str) -> str | None:
        """Where in the layout a file of an archive belongs, with or without a folder around it all;
        None: nowhere."""
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
    """Ask S3 what there is of `splits`; one request for archives, one for each 1000 files of a
    tree.

    Raises DataError, which says what is missing, and UnreachableError when the server does not
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
    """The files of a piece, or one archive with it."""
    files = [one for name in piece.names for one in _files_of(bucket, top, name)]
    archives = [top[name] for name in _files(piece) if name in top]
    yield from files or archives[:1]


def _files_of(bucket: DataBucket, top: Mapping[str, Object], name: str) -> Sequence[Object]:
    if "/" not in name:
        return [top[name]] if name in top else []
    objects = bucket.objects(name, deep=True)
    # Consoles of S3 make empty objects as folders.
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
