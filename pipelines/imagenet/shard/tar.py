"""Tar files of images in WebDataset's layout: `<key>.jpg` beside `<key>.cls` or `<key>.json`. Scanned and written."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, NamedTuple

from orchestrator.errors import DataError
from pipelines.imagenet.source import IMAGE_SUFFIXES, named

BLOCK = 512
"""Bytes; members of a tar file begin at multiples of it."""


class Member(NamedTuple):
    """An image in a tar file: `size` bytes from `offset` on."""

    name: str
    label: int
    offset: int
    size: int


class Encoded(NamedTuple):
    """An image to write: its name in the shard, and its bytes."""

    name: str
    label: int
    content: bytes


def scan_tar(file: IO[bytes], place: str) -> list[Member]:
    """The images of a tar file in its order; only headers and labels are read.

    Raises DataError, which names the shard as `place`, for a file that is truncated or no tar, and for images without
    a label.
    """
    found: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for info in tar:
                if info.isfile():
                    _take(tar, info, found, labels, place)
            _check_end(tar, file)
    except (tarfile.TarError, EOFError) as err:
        raise DataError(f"{place}: the shard is no whole tar file: {err}; copy it again or write it anew") from err
    missing = [name for key, (name, _, _) in found.items() if key not in labels]
    if missing:
        raise DataError(f"{place}: images without a label: {named(missing)}; each needs <key>.cls or <key>.json")
    return [Member(name, labels[key], offset, size) for key, (name, offset, size) in found.items()]


def write_tar(path: Path, images: Iterable[Encoded]) -> list[Member]:
    """A tar file whose bytes depend on `images` alone; where each image lies in it."""
    members = []
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for image in images:
            _add(tar, image.name, image.content)
            offset = tar.offset - _padded(len(image.content))
            members.append(Member(image.name, image.label, offset, len(image.content)))
            _add(tar, f"{key_of(image.name)}.cls", str(image.label).encode())
    return members


def key_of(name: str) -> str:
    """What members of one sample share: all before the first dot of the file's name."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _take(
    tar: tarfile.TarFile,
    info: tarfile.TarInfo,
    found: dict[str, tuple[str, int, int]],
    labels: dict[str, int],
    place: str,
) -> None:
    key, suffix = key_of(info.name), info.name[len(key_of(info.name)) :].lower()
    if Path(suffix).suffix in IMAGE_SUFFIXES or suffix in IMAGE_SUFFIXES:
        if key in found:
            raise DataError(f"{place}: two images have the key {key}: {found[key][0]} and {info.name}")
        found[key] = (info.name, info.offset_data, info.size)
    elif suffix == ".cls" or (suffix == ".json" and key not in labels):
        label = _parse_label(_content(tar, info), suffix)
        if label is None:
            raise DataError(f"{place}/{info.name}: holds no label, which is an integer from 0 on")
        labels[key] = label


def _content(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(info)
    assert file is not None, "a regular file"
    return file.read()


def _parse_label(content: bytes, suffix: str) -> int | None:
    try:
        value: Any = json.loads(content)
    except ValueError:
        return None
    if suffix == ".json":
        value = value.get("label") if isinstance(value, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _check_end(tar: tarfile.TarFile, file: IO[bytes]) -> None:
    """tarfile takes what was cut between two members, or goes on with rubbish, for a whole file; zeros end one."""
    file.seek(tar.offset)
    if file.read(BLOCK) != bytes(BLOCK):
        raise tarfile.ReadError(f"no end at byte {tar.offset}")


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
