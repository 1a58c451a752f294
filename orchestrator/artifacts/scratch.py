"""Temporary folders, and what a user reads if a disk is full or cannot be written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from orchestrator.errors import StoreError


@contextmanager
def disk_errors(where: str | Path, *, advice: str = "") -> Iterator[None]:
    """Raise StoreError, which names `where`, for an error of the disk in the block."""
    try:
        yield
    except OSError as err:
        raise StoreError(f"{where}: cannot be written: {err.strerror or err}{advice}") from err


@contextmanager
def scratch_errors() -> Iterator[None]:
    """Like `disk_errors`, for files in the folder for temporary files."""
    advice = "; set TMPDIR to a folder with more room"
    with disk_errors("the folder for temporary files", advice=advice):
        yield


@contextmanager
def scratch_folder(purpose: str) -> Iterator[Path]:
    """Yield a temporary folder. Errors of the disk in the block become a StoreError."""
    with scratch_errors(), TemporaryDirectory(prefix=f"orchestrator-{purpose}-") as folder:
        yield Path(folder)


@contextmanager
def drafts_in(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder in `folder`, so that a finished file is moved by a rename.

    Errors of the disk in the block become a StoreError.
    """
    with disk_errors(folder, advice="; free some space there, or choose another folder"):
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".orchestrator-get-", dir=folder) as drafts:
            yield Path(drafts)
