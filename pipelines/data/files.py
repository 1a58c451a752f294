"""Lists the files below a folder with their sizes; the list is remembered as long as no folder
changes."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import DataError, escaped
from pipelines.data.digests import CONTENT_LIMIT_BYTES, digest_of_files
from pipelines.data.faults import data_errors, size_of_file
from pipelines.data.remembered import is_settled, recall, remember
from pipelines.data.text import check_names

VERSION = 2


@dataclass(frozen=True)
class Listing:
    """A list of files: `paths` are relative and sorted, without hidden files; `directories` has
    each folder's modification time in ns."""

    directories: Mapping[str, int]
    paths: Sequence[str]
    sizes: Sequence[int]

    @property
    def total_bytes(self) -> int:
        return sum(self.sizes)


def list_files(root: Path, top: str) -> Listing:
    """The files below `root/top`, with paths that begin with `top`.

    Only a set that is too large to be hashed byte by byte is remembered, because a file overwritten
    in place changes no folder. Raises DataError if the folder is missing, empty or cannot be read.
    """
    for document in recall(root, _memory_name(top)):
        remembered = _still_true(root, document)
        if remembered is not None:
            return remembered
    start_s = time.time()
    listing = _walk(root, top)
    check_names(root / top, [*listing.directories, *listing.paths])
    if listing.total_bytes > CONTENT_LIMIT_BYTES and is_settled(
        max(listing.directories.values()), start_s
    ):
        remember(root, _memory_name(top), {"version": VERSION, **asdict(listing)})
    return listing


def digest_of_folders(root: Path, folders: Sequence[str]) -> str:
    """Digest of all files below `root/folder` for each of `folders`, independent of `root`; raises
    like `list_files`."""
    listings = [list_files(root, folder) for folder in folders]
    return digest_of_files(
        root, [pair for one in listings for pair in zip(one.paths, one.sizes, strict=True)]
    )


def _walk(root: Path, top: str) -> Listing:
    directories: dict[str, int] = {}
    files: list[tuple[str, int]] = []
    with data_errors(root / top):
        if not (root / top).is_dir():
            raise DataError(_no_folder(root, top))
        pending = [top]
        while pending:
            _list_one(root, pending.pop(), directories, files, pending)
    if not files:
        raise DataError(f"{root / top}: the data folder is empty; copy the data there")
    files.sort()
    return Listing(directories, [path for path, _ in files], [size for _, size in files])


def _no_folder(root: Path, top: str) -> str:
    what = "a file" if (root / top).exists() else "missing"
    for location in (root / top, root):
        if what == "missing" and location.is_symlink():
            what = (
                f"missing: {escaped(str(location))} is a symbolic link to "
                f"{escaped(str(location.readlink()))}"
            )
    return (
        f"{root / top}: the data folder is {what}; set the stage's `data` to a folder that holds "
        f"{top}/"
    )


def _list_one(
    root: Path,
    folder: str,
    directories: dict[str, int],
    files: list[tuple[str, int]],
    pending: list[str],
) -> None:
    location = f"{root}/{folder}"
    # Read the time first, so that the next call notices a change during the listing.
    directories[folder] = os.stat(location).st_mtime_ns  # noqa: PTH116
    with os.scandir(location) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                pending.append(f"{folder}/{entry.name}")
            else:
                files.append((f"{folder}/{entry.name}", size_of_file(entry.stat(), entry.path)))


def _memory_name(top: str) -> str:
    return f"files-{top.replace('/', '-')}.json"


def _still_true(root: Path, document: Mapping[str, Any]) -> Listing | None:
    """The listing that an earlier call remembered; None if it is no longer true."""
    try:
        listing = Listing(**{name: value for name, value in document.items() if name != "version"})
        is_true = document["version"] == VERSION and all(
            os.stat(root / path).st_mtime_ns == when  # noqa: PTH116
            for path, when in listing.directories.items()
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return listing if is_true else None
