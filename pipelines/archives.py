"""Unpacks the files of a zip or tar that a caller wants. A damaged archive, or one that reaches outside, is refused."""

from __future__ import annotations

import gzip
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import IO

from orchestrator.errors import DataError

_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    EOFError,
    zlib.error,
    RuntimeError,
    NotImplementedError,
)
"""RuntimeError: a password; NotImplementedError: a way of packing that Python does not know."""


def unpack(archive: Path, name: str, to: Path, place_of: Callable[[str], str | None]) -> None:
    """Write each file of `archive` for which `place_of` has a place to that place below `to`.

    Raises DataError, which calls the archive `name`, when it is damaged or has no such file.
    """
    found = False
    try:
        for path, content in _zipped(archive) if name.endswith(".zip") else _tarred(archive):
            place = place_of(path)
            if place is None:
                continue
            if ".." in place.split("/") or "\\" in place:
                raise DataError(f"{name}: the archive has a file outside itself, {path!r}; nothing of it is used")
            target = to / place
            target.parent.mkdir(parents=True, exist_ok=True)
            with closing(content()) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file, 2**20)
            found = True
    except _DAMAGED as err:
        raise DataError(f"{name}: the archive cannot be unpacked: {err}; upload it again") from err
    if not found:
        raise DataError(f"{name}: the archive has no file of the data set")


Opened = Callable[[], IO[bytes]]


def _zipped(archive: Path) -> Iterator[tuple[str, Opened]]:
    """Path and content of each file; reading one to its end compares its CRC."""
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            if not member.is_dir():
                yield member.filename, lambda member=member: opened.open(member)  # type: ignore[misc]


def _tarred(archive: Path) -> Iterator[tuple[str, Opened]]:
    """Likewise of a tar, packed or not; links and devices are no data."""
    with tarfile.open(archive) as opened:
        for member in opened:
            if member.isreg():
                yield member.name.removeprefix("./"), lambda member=member: _extracted(opened, member)  # type: ignore[misc]


def _extracted(opened: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = opened.extractfile(member)
    assert content is not None, "a regular file has content"
    return content
