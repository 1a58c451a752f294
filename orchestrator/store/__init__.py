"""The store of artifacts, manifests and run records: a folder or S3."""

from __future__ import annotations

from pathlib import Path

from orchestrator.store.folder import FolderStore
from orchestrator.store.protocol import Store

__all__ = ["Store", "open_store"]


def open_store(uri: str) -> Store:
    """Return the store at an absolute folder path or at `s3://BUCKET/PREFIX`. Reads and writes
    nothing yet."""
    if not uri.startswith("s3://"):
        return FolderStore(Path(uri))
    from orchestrator.store.s3 import S3Store  # noqa: PLC0415  boto3 takes half a second to import

    return S3Store(uri)
