"""Remembers facts about data as JSON documents, next to the data or, if they are read-only, in the
user's cache.

The caller that recalls a document checks that it is still true: this module does not know what
changed.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from orchestrator.cache_room import cache_folder
from orchestrator.errors import DataError

FOLDER = ".orchestrator"
SETTLED_S = 2.0
"""A file changed within this time may change again in the same tick of the file system's clock."""


def recall(root: Path, name: str) -> Iterator[Mapping[str, Any]]:
    """The documents of that name about the data at `root`, the one next to the data first; none if
    none exists."""
    for path in _locations(root, name):
        try:
            document = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(document, dict):
            yield document


def remember(root: Path, name: str, document: Mapping[str, Any]) -> None:
    """Store `document` atomically; if it cannot be written, only time is lost."""
    text = json.dumps(document, separators=(",", ":"))
    for path in _locations(root, name):
        if _is_written(path, text):
            return


def _is_written(path: Path, text: str) -> bool:
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError:
        with suppress(OSError):
            partial.unlink()
        return False
    return True


def is_settled(changed_ns: int, now_s: float) -> bool:
    """Whether a change after `now_s` would give a time other than `changed_ns`."""
    return changed_ns < (now_s - SETTLED_S) * 1e9


def _locations(root: Path, name: str) -> Iterator[Path]:
    yield root / FOLDER / name
    try:
        caches = cache_folder()
    except DataError:
        return
    digest = hashlib.sha256(str(root.absolute()).encode("utf-8", "surrogateescape")).hexdigest()
    yield caches / "remembered" / digest[:40] / name
