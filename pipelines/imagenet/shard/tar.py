"""Scans and writes tar files of images in WebDataset's layout: `<key>.jpg` with `<key>.cls` or
`<key>.json`."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, NamedTuple

from orchestrator.errors import DataError, escaped
from pipelines.data.archives import is_data
from pipelines.data.faults import first_named
from pipelines.data.text import check_names, decode_text, parse_json
from pipelines.imagenet.source import IMAGE_SUFFIXES

BLOCK = 512
"""Block size in bytes; members of a tar file begin at multiples of it."""
LARGEST_LABEL = 999_999
"""Largest valid label; a larger number is some other id. Without classes.txt there is a class for
each number up to the highest label."""
_DIGITS = re.compile(r"\s*([0-9]{1,4000})\s*")


class Member(NamedTuple):
    """An image in a tar file: `size` bytes, starting at `offset`."""

    name: str
    label: int
    offset: int
    size: int


class Encoded(NamedTuple):
    """An image to write: its name in the shard, and its bytes."""

    name: str
    label: int
    content: bytes


def scan_tar(file: IO[bytes], location: str) -> list[Member]:
    """The images of a tar file, in the order of the file; only headers and labels are read.

    Raises DataError, which names the shard as `location`, for a file that is truncated or not a
    tar, for images without a label, and for names that are not UTF-8.
    """
    found = _Found(location)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for info in tar:
                if is_data(info.name):
                    found.take(tar, info)
            _check_end(tar, file)
    except (tarfile.TarError, EOFError) as err:
        raise DataError(
            f"{location}: the shard is not a complete tar file: {err}; copy or write it again"
        ) from err
    return found.members()


def write_tar(path: Path, images: Iterable[Encoded]) -> list[Member]:
    """Write a tar file whose bytes depend only on `images`; return the location of each image in
    it."""
    members = []
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for image in images:
            _add(tar, image.name, image.content)
            offset = tar.offset - _padded(len(image.content))
            members.append(Member(image.name, image.label, offset, len(image.content)))
            _add(tar, f"{key_of(image.name)}.cls", str(image.label).encode())
    return members


def key_of(name: str) -> str:
    """The key that members of one sample share: everything before the first dot of the file
    name."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


class _Found:
    """The content of a tar file read so far: images and labels by their keys."""

    def __init__(self, location: str) -> None:
        self._location = location
        self._images: dict[str, tuple[str, int, int]] = {}
        self._labels: dict[str, int] = {}
        self._described: dict[str, tuple[str, int | None]] = {}
        """Name and label of each `.json`, which is used if there is no `.cls`."""

    def take(self, tar: tarfile.TarFile, info: tarfile.TarInfo) -> None:
        key = key_of(info.name)
        suffix = info.name[len(key) :].lower()
        if Path(suffix).suffix in IMAGE_SUFFIXES or suffix in IMAGE_SUFFIXES:
            self._take_image(key, info)
        elif suffix == ".cls" and info.isfile():
            label = _parse_text_label(_content(tar, info), info.name)
            if label is None:
                raise self._no_label(info.name)
            self._labels[key] = label
        elif suffix == ".json" and info.isfile():
            self._described[key] = info.name, _parse_json_label(_content(tar, info), info.name)

    def members(self) -> list[Member]:
        """Each image with its label, in the order of the file."""
        check_names(self._location, [name for name, _, _ in self._images.values()])
        for key in sorted(self._images.keys() & self._described.keys() - self._labels.keys()):
            name, label = self._described[key]
            if label is None:
                raise self._no_label(name)
            self._labels[key] = label
        missing = [name for key, (name, _, _) in self._images.items() if key not in self._labels]
        if missing:
            raise DataError(
                f"{self._location}: images without a label: {first_named(missing)}; each needs "
                "<key>.cls or <key>.json"
            )
        return [
            Member(name, self._labels[key], offset, size)
            for key, (name, offset, size) in self._images.items()
        ]

    def _take_image(self, key: str, info: tarfile.TarInfo) -> None:
        if info.isdir():
            return
        name = escaped(info.name)
        if not info.isfile() or info.issparse():
            raise DataError(
                f"{self._location}/{name}: a link or a sparse file; write the shard again with "
                "regular files, for example with tar --dereference --hard-dereference"
            )
        if key in self._images:
            other = escaped(self._images[key][0])
            raise DataError(
                f"{self._location}: two images have the key {escaped(key)}: {other} and {name}; "
                "write the shard again with one key for each image"
            )
        self._images[key] = (info.name, info.offset_data, info.size)

    def _no_label(self, name: str) -> DataError:
        return DataError(
            f"{self._location}/{escaped(name)}: holds no label; a label is an integer from 0 to "
            f"{LARGEST_LABEL}"
        )


def _content(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(info)
    assert file is not None, "a regular file"
    return file.read()


def _parse_text_label(content: bytes, name: str) -> int | None:
    """Parse digits, with or without leading zeros, surrounding spaces or a line end."""
    try:
        found = _DIGITS.fullmatch(decode_text(content, name))
    except DataError:
        return None
    return _checked(int(found[1])) if found else None


def _parse_json_label(content: bytes, name: str) -> int | None:
    try:
        value: Any = parse_json(decode_text(content, name))
    except (DataError, ValueError, RecursionError):
        return None
    label = value.get("label") if isinstance(value, dict) else None
    return _checked(label) if isinstance(label, int) and not isinstance(label, bool) else None


def _checked(label: int) -> int | None:
    return label if 0 <= label <= LARGEST_LABEL else None


def _check_end(tar: tarfile.TarFile, file: IO[bytes]) -> None:
    """Raises ReadError unless zeros end the file: tarfile accepts a file that was cut between two
    members or continues with garbage."""
    file.seek(tar.offset)
    if file.read(BLOCK) != bytes(BLOCK):
        raise tarfile.ReadError(f"no end-of-archive marker at byte {tar.offset}")


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
