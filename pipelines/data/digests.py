"""Digests of data sets on disk, computed without decoding images; they represent a stage's data in
its Key."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.artifact import digest_of
from pipelines.data.faults import data_errors
from pipelines.data.remembered import is_settled, recall, remember

CONTENT_LIMIT_BYTES = 256 * 2**20
"""Data sets up to this size are hashed byte by byte (a second on one core); larger ones by paths
and sizes."""
_DIGESTS_NAME = "digests.json"
_VERSION = 1

_State = list[int]
"""Size, modification time and change time of a file."""


def digest_of_files(root: Path, files: Sequence[tuple[str, int]]) -> str:
    """Digest of listed files, given as (path relative to `root`, size in bytes)."""
    total_bytes = sum(size for _, size in files)
    if total_bytes > CONTENT_LIMIT_BYTES:
        return digest_of(["paths and sizes", files])
    paths = [path for path, _ in files]
    return digest_of(["content", list(zip(paths, digests_of_files(root, paths), strict=True))])


def digests_of_files(root: Path, paths: Sequence[str]) -> list[str]:
    """sha256 (hex) of each file, by its path relative to `root`; raises DataError if one cannot be
    read.

    A file with the same size and times as in an earlier call, in any process, is not read again.
    """
    remembered = [_entries(document) for document in recall(root, _DIGESTS_NAME)]
    start_s = time.time()
    digests: list[str] = []
    new: dict[str, list[int | str]] = {}
    for path in paths:
        state = _state(f"{root}/{path}")
        digest = _known_digest(remembered, path, state)
        if digest is None:
            digest = digest_of_file(root / path)
            if is_settled(max(state[1:]), start_s):
                new[path] = [*state, digest]
        digests.append(digest)
    if new:
        known = {path: entry for entries in reversed(remembered) for path, entry in entries.items()}
        remember(root, _DIGESTS_NAME, {"version": _VERSION, "files": {**known, **new}})
    return digests


def digest_of_file(path: Path) -> str:
    """sha256 (hex) of a file's bytes; raises DataError when it cannot be read."""
    with data_errors(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _state(path: str) -> _State:
    with data_errors(path):
        status = os.stat(path)  # noqa: PTH116  a hundred thousand calls
    # An edit can keep the size and restore the modification time, but not the change time.
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _entries(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Entries [size, time, time, sha256] by path, as an earlier call wrote them."""
    entries = document.get("files")
    return entries if document.get("version") == _VERSION and isinstance(entries, dict) else {}


def _known_digest(remembered: Iterable[Mapping[str, Any]], path: str, state: _State) -> str | None:
    for entries in remembered:
        match entries.get(path):
            case [*known, str(digest)] if known == state:
                return digest
    return None
