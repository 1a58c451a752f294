"""Files from outside the job that stages read: on this machine, or in S3."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from orchestrator.errors import DataError
from orchestrator.store import open_store
from orchestrator.store.marks import NameList, await_unmarked
from orchestrator.store.protocol import Store
from orchestrator.store.publish import blob_name, sha256_of, training_name

INPUTS = "inputs.json"
"""The file in a stage's resume state with the names of the blobs that it reads from outside."""


def note_outside(store: Store, key: str, sha256s: Iterable[str]) -> None:
    """Note that the stage with this Key reads blobs that no manifest names yet, and wait until
    `artifacts gc` is about to delete none of them.

    What exists afterwards stays while the stage has a lease, or resume state that gc keeps.
    """
    names = tuple(sorted(blob_name(sha256) for sha256 in sha256s))
    document = NameList(names=names).model_dump_json().encode()
    store.write(f"{training_name(key)}/{INPUTS}", document)
    await_unmarked(store, names)


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
