"""Unpacks the wanted files of a zip or tar. Refuses a damaged archive, or one with paths outside
itself."""

from __future__ import annotations

import gzip
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO

from orchestrator.errors import DataError, escaped
from orchestrator.numbers import count_text
from pipelines.data.faults import first_named
from pipelines.data.text import is_utf8

_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    lzma.LZMAError,
    EOFError,
    zlib.error,
    RuntimeError,
    NotImplementedError,
    UnicodeDecodeError,
)
"""RuntimeError: a password; NotImplementedError: a compression method that Python does not know;
UnicodeDecodeError: a name in a zip that claims to be UTF-8."""
_NAMES_ARE_UTF8 = 0x800
"""Flag of a zip member; without it the encoding of its name is unknown."""
_FOLDER_OF_DOS = 0x10
"""Attribute of a zip member."""


def unpack(
    archive: Path,
    name: str,
    to: Path,
    location_of: Callable[[str], str | None],
    *,
    needed: Sequence[str],
) -> None:
    """Write each file of `archive` for which `location_of` returns a location to that location
    below `to`.

    Raises DataError, which calls the archive `name`, if it is damaged, holds none of the `needed`
    files, or has names that are not UTF-8.
    """
    found = False
    others: Counter[str] = Counter()
    try:
        for path, content in _zipped(archive) if name.endswith(".zip") else _tarred(archive):
            location = location_of(path)
            if location is None:
                others[_folder_of(path)] += 1
                continue
            _check_location(location, path, name)
            target = to / location
            target.parent.mkdir(parents=True, exist_ok=True)
            with closing(content()) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file, 2**20)
            found = True
    except (*_DAMAGED, OSError) as err:
        if isinstance(err, OSError) and err.errno is not None:
            raise  # a disk error; bz2's own error, for bytes that it cannot unpack, has no number
        raise DataError(f"{name}: the archive cannot be unpacked: {err}; upload it again") from err
    if not found:
        raise DataError(
            f"{name}: the archive holds no file of the data set (found: {_described(others)}); "
            f"it must hold {', '.join(needed)}, at its root or in a single folder"
        )


def is_data(path: str) -> bool:
    """Whether a member of an archive may be data. Hidden files are not, nor are files that macOS or
    tar adds."""
    return not any(_is_litter(part) for part in path.split("/"))


def _is_litter(part: str) -> bool:
    is_hidden = part.startswith(".") and part not in (".", "..")
    return is_hidden or part in ("__MACOSX", "PaxHeaders") or part.startswith("PaxHeaders.")


def _check_location(location: str, path: str, name: str) -> None:
    if ".." in location.split("/"):
        raise DataError(
            f"{name}: the archive has a path outside itself, {path!r}; the archive is not used"
        )
    if not is_utf8(path):
        raise DataError(
            f"{name}: the archive has a file name that is not UTF-8: {escaped(path)}; rename the "
            "file and pack the archive again"
        )


def _folder_of(path: str) -> str:
    """The folder of a file, or the file itself if it has none."""
    folder, slash, file = path.rpartition("/")
    return folder + slash if folder else file


def _described(others: Mapping[str, int]) -> str:
    """Folders with their numbers of files, as text for an error."""
    if not others:
        return "no files"
    shown = (
        escaped(name) + (f" ({count_text(num, 'file')})" if name.endswith("/") else "")
        for name, num in sorted(others.items())
    )
    return first_named(shown, len(others))


Opened = Callable[[], IO[bytes]]


def _zipped(archive: Path) -> Iterator[tuple[str, Opened]]:
    """Path and content of each file of a zip; reading a file to its end checks its CRC."""
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            path = _plain(_zipped_name(member))
            if not path.endswith("/") and not _is_folder_or_link(member):
                yield path, lambda member=member: opened.open(member)  # type: ignore[misc]


def _tarred(archive: Path) -> Iterator[tuple[str, Opened]]:
    """Path and content of each file of a tar, compressed or not; links and devices are not data."""
    with tarfile.open(archive) as opened:
        for member in opened:
            if member.isreg():
                yield _plain(member.name), lambda member=member: _extracted(opened, member)  # type: ignore[misc]


def _is_folder_or_link(member: zipfile.ZipInfo) -> bool:
    """Whether a zip member is a folder or a link, by its attributes: some Windows tools write
    folders without a trailing separator."""
    return bool(member.external_attr & _FOLDER_OF_DOS) or stat.S_ISLNK(member.external_attr >> 16)


def _plain(name: str) -> str:
    """A member's path with `/`; Windows tools write backslashes."""
    return name.replace("\\", "/").removeprefix("./")


def _zipped_name(member: zipfile.ZipInfo) -> str:
    """The name of a zip member. Many tools write UTF-8 without the flag, and zipfile then decodes
    code page 437. Other bytes stay undecoded."""
    if member.flag_bits & _NAMES_ARE_UTF8:
        return member.filename
    return member.filename.encode("cp437").decode("utf-8", "surrogateescape")


def _extracted(opened: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = opened.extractfile(member)
    assert content is not None, "a regular file has content"
    return content
