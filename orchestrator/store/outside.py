"""Files from outside the job that stages read: on this machine, or in S3."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from orchestrator.errors import DataError
from orchestrator.store import open_store
from orchestrator.store.publish import sha256_of


def digest_outside(location: str) -> str:
    """Return the sha256 (hex) of the file at an absolute path or `s3://BUCKET/PREFIX/NAME`.

    A file in S3 is downloaded completely. Raises DataError if the file does not exist, StoreError
    if S3 is unreachable.
    """
    if not location.startswith("s3://"):
        with _as_data(location):
            return sha256_of(Path(location))
    with tempfile.TemporaryDirectory(prefix="orchestrator-outside-") as scratch:
        return sha256_of(fetch_outside(location, Path(scratch)))


def fetch_outside(location: str, folder: Path) -> Path:
    """Copy the file into `folder` under its own name. Raises the errors of `digest_outside`."""
    target = folder / PurePosixPath(location).name
    if not location.startswith("s3://"):
        with _as_data(location):
            shutil.copyfile(location, target)
        return target
    uri, _, name = location.rpartition("/")
    if not open_store(uri).download(name, target):
        raise DataError(f"{location}: no such object; correct the input or upload the file")
    return target


@contextmanager
def _as_data(location: str) -> Iterator[None]:
    try:
        yield
    except IsADirectoryError as err:
        raise DataError(f"{location}: is a folder; name a file in it") from err
    except OSError as err:
        raise DataError(f"{location}: the file cannot be read: {err.strerror}") from err
