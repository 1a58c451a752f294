"""Digests of data sets on disk, without decoding them: what a Key says about the data of a stage."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from orchestrator.artifact import digest_of
from orchestrator.errors import DataError

CONTENT_LIMIT_BYTES = 256 * 2**20
"""Up to this size a data set is hashed byte by byte (a second on one core); beyond it by paths and sizes."""


def digest_of_folders(root: Path, folders: Sequence[str]) -> str:
    """Digest of all files below `root/folder` for each of `folders`, wherever `root` lies.

    Raises DataError when a folder is missing or holds no file.
    """
    return digest_of_files(root, [file for folder in folders for file in _files_below(root, folder)])


def digest_of_files(root: Path, files: Sequence[tuple[str, int]]) -> str:
    """Digest of files that are listed already, as (path relative to `root`, size in bytes)."""
    total_bytes = sum(size for _, size in files)
    if total_bytes > CONTENT_LIMIT_BYTES:
        return digest_of(["paths and sizes", files])
    return digest_of(["content", [(path, digest_of_file(root / path)) for path, _ in files]])


def digest_of_file(path: Path) -> str:
    """sha256 (hex) of a file's bytes; raises DataError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as err:
        raise DataError(f"{path}: cannot be read: {err.strerror}") from err


def digest_of_large_file(path: Path) -> str:
    """As `digest_of_file`, of a file that many stages name: read once, until its size or time of change differs."""
    try:
        status = path.stat()
    except OSError as err:
        raise DataError(f"{path}: cannot be read: {err.strerror}") from err
    return _remembered_digest(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _remembered_digest(path: Path, size: int, mtime_ns: int) -> str:
    return digest_of_file(path)


def _files_below(root: Path, folder: str) -> list[tuple[str, int]]:
    """Sorted (path relative to `root`, size in bytes); hidden files are not data."""
    top = root / folder
    if not top.is_dir():
        what = "a file" if top.exists() else "missing"
        raise DataError(f"{top}: the data folder is {what}; give the stage's `data` a folder that holds {folder}/")
    files = sorted((os.path.relpath(path, root), size) for path, size in _walk(top))
    if not files:
        raise DataError(f"{top}: the data folder is empty")
    return files


def _walk(top: Path) -> Iterator[tuple[str, int]]:
    with os.scandir(top) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(Path(entry.path))
            else:
                yield entry.path, entry.stat().st_size
