"""The files below a folder with their sizes: walked once, remembered beside the data as long as no folder changes."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator.errors import DataError
from pipelines.fingerprint import CONTENT_LIMIT_BYTES

MEMORY_DIR = ".orchestrator"
VERSION = 1
SETTLED_S = 2.0
"""A folder that changed within this time may change again in the same tick of the file system's clock."""


@dataclass(frozen=True)
class Listing:
    """`paths` are relative, sorted, and without hidden ones; `directories` has each folder's time of change in ns."""

    directories: Mapping[str, int]
    paths: Sequence[str]
    sizes: Sequence[int]

    @property
    def total_bytes(self) -> int:
        return sum(self.sizes)


def list_files(root: Path, top: str) -> Listing:
    """The files below `root/top`, with paths that begin with `top`.

    Only a set that is too large to be hashed byte by byte is remembered: a file that is overwritten in place changes
    no folder. Raises DataError when the folder is missing, empty or cannot be read.
    """
    remembered = _load(root, top)
    if remembered is not None:
        return remembered
    start_s = time.time()
    listing = _walk(root, top)
    if listing.total_bytes > CONTENT_LIMIT_BYTES and max(listing.directories.values()) < (start_s - SETTLED_S) * 1e9:
        _remember(root, top, listing)
    return listing


def _walk(root: Path, top: str) -> Listing:
    if not (root / top).is_dir():
        what = "a file" if (root / top).exists() else "missing"
        raise DataError(f"{root / top}: the data folder is {what}; give the stage's `data` a folder that holds {top}/")
    directories: dict[str, int] = {}
    files: list[tuple[str, int]] = []
    try:
        pending = [top]
        while pending:
            _list_one(root, pending.pop(), directories, files, pending)
    except OSError as err:
        raise DataError(f"{err.filename}: cannot be read: {err.strerror}") from err
    if not files:
        raise DataError(f"{root / top}: the data folder is empty")
    files.sort()
    return Listing(directories, [path for path, _ in files], [size for _, size in files])


def _list_one(
    root: Path, folder: str, directories: dict[str, int], files: list[tuple[str, int]], pending: list[str]
) -> None:
    place = f"{root}/{folder}"
    # The time comes first: a change during the listing is noticed by the next call.
    directories[folder] = os.stat(place).st_mtime_ns  # noqa: PTH116
    with os.scandir(place) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                pending.append(f"{folder}/{entry.name}")
            else:
                files.append((f"{folder}/{entry.name}", entry.stat().st_size))


def _memory(root: Path, top: str) -> Path:
    return root / MEMORY_DIR / f"files-{top}.json"


def _load(root: Path, top: str) -> Listing | None:
    """What an earlier call remembered, or None where that is not what is there now."""
    try:
        document = json.loads(_memory(root, top).read_bytes())
        if document.pop("version") != VERSION:
            return None
        listing = Listing(**document)
        if all(os.stat(root / path).st_mtime_ns == when for path, when in listing.directories.items()):  # noqa: PTH116
            return listing
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return None


def _remember(root: Path, top: str, listing: Listing) -> None:
    """Data that may not be written are walked each time: nothing is lost but seconds."""
    path = _memory(root, top)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        path.parent.mkdir(exist_ok=True)
        partial.write_text(json.dumps({"version": VERSION, **asdict(listing)}, separators=(",", ":")))
        partial.replace(path)
    except OSError:
        return
