"""Folders and stores as a job names them -> absolute places. Nothing is looked up on disk."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from orchestrator.spec.faults import shown

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def absolute_folder(text: str, base_dir: Path) -> str:
    """`text` against `base_dir`, without `..`; ValueError for what is no folder of this machine."""
    if not text:
        raise ValueError("must not be empty")
    if _SCHEME.match(text):
        raise ValueError(f"must be a folder, not {shown(text)}")
    if text.startswith("~"):
        raise ValueError(f"~ is not expanded here: write the folder out, not {shown(text)}")
    return os.path.normpath(base_dir / text)


def store_folder(text: str, base_dir: Path) -> str:
    """The absolute folder of a store, given as a path or `file:///...`; ValueError for any other store."""
    scheme = _SCHEME.match(text)
    if scheme is None:
        return absolute_folder(text, base_dir)
    if scheme[1].lower() != "file":
        raise ValueError(f"unknown kind of store {scheme[0]!r}; known: a folder, file:///ABSOLUTE/PATH")
    path = unquote(urlsplit(text).path)
    if not text[len(scheme[0]) :].startswith("/") or "\0" in path:
        raise ValueError(f"must be file:///ABSOLUTE/PATH, not {shown(text)}")
    return os.path.normpath(path)
