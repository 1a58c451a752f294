"""Where artifacts, manifests and events live."""

from __future__ import annotations

from pathlib import Path

from orchestrator.store.folder import FolderStore
from orchestrator.store.protocol import Store

__all__ = ["Store", "open_store"]


def open_store(uri: str) -> Store:
    """The store at an absolute folder path. Nothing is read or written yet."""
    return FolderStore(Path(uri))
