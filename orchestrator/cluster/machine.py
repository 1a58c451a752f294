"""Check that a machine has what a stage needs before it begins.

That is disk space, the run's store, and the data and files that the plan read."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from orchestrator.cluster.attempt import Attempt
from orchestrator.contract import Role
from orchestrator.errors import DataError, MachineError, StoreError, StoreRefusedError
from orchestrator.runs.record import record_name
from orchestrator.s3.bucket import SCHEME
from orchestrator.store import Store, open_store

_SHOWN = 12
"""Hexadecimal digits of a digest that a message shows."""
LEAST_FREE_BYTES = 2**24
"""The space for what a stage with the smallest model writes in addition to its inputs."""


@contextmanager
def scratch_folder(prefix: str, *, num_bytes: int = 0) -> Iterator[Path]:
    """Yield a temporary folder with space for `num_bytes`, and delete it afterwards.

    Raises MachineError if there is not enough space, or if a disk becomes full during its use.
    """
    try:
        scratch = tempfile.TemporaryDirectory(prefix=prefix)
    except OSError as err:
        raise _lacking(f"cannot create a temporary folder: {err.strerror or err}") from err
    with scratch as folder, _noted(Path(folder)):
        usage, needed = shutil.disk_usage(folder), num_bytes + LEAST_FREE_BYTES
        if usage.total and usage.free < needed:
            room = f"{tempfile.gettempdir()} has {usage.free / 2**20:.0f} MiB free"
            raise _lacking(f"{room}, but the stage needs {needed / 2**20:.0f} MiB")
        try:
            yield Path(folder)
        except OSError as err:
            if is_full_disk(err):
                raise _lacking(f"a disk is full: {err}") from err
            raise


_scratch_folders: set[Path] = set()
"""The temporary folders of this process."""


@contextmanager
def _noted(folder: Path) -> Iterator[None]:
    _scratch_folders.add(folder)
    try:
        yield
    finally:
        _scratch_folders.discard(folder)


def end_process() -> NoReturn:
    """End this process at once. Its temporary folders would otherwise stay."""
    for folder in tuple(_scratch_folders):
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def is_full_disk(err: BaseException) -> bool:
    return isinstance(err, OSError) and err.errno in (errno.ENOSPC, errno.EDQUOT)


def input_bytes(attempt: Attempt) -> int:
    """The size of all inputs, which this machine fetches."""
    return sum(file.size for artifact in attempt.inputs.values() for file in artifact.files)


def check_store(attempt: Attempt, *, is_writer: bool) -> None:
    """Raise unless this machine can reach the run's store and, if `is_writer`, write to it.

    Raises MachineError if another try cannot help, otherwise StoreError.
    """
    store = open_store(attempt.store_uri)
    try:
        _check_same(store, str(attempt.provenance["run_id"]))
        if is_writer:
            store.check_access()
    except StoreRefusedError as err:
        raise MachineError(f"machine {socket.gethostname()}: {err}") from err
    except StoreError as err:
        raise StoreError(f"machine {socket.gethostname()}: {err}") from err


def _check_same(store: Store, run_id: str) -> None:
    """Raise unless the store has the record of this run.

    A folder that the machines do not share lacks it, as does the same bucket on another server.
    """
    name = record_name(run_id)
    if store.read(name) is None:
        raise StoreRefusedError(
            f"store {store.uri}: is not the store of the driver: it does not contain {name}; share "
            "one folder at the same path on all machines, or use --store s3://BUCKET/PREFIX with "
            "the same AWS_ENDPOINT_URL"
        )


def _lacking(what: str) -> MachineError:
    return MachineError(
        f"machine {socket.gethostname()}: {what}; free some space, or set TMPDIR to a writable "
        "folder before Ray starts there"
    )


def check_read(attempt: Attempt) -> None:
    """Raise DataError unless data and files on this machine match the Key.

    Data in a folder that the plan itself read are not read again: for ImageNet on a network drive
    that takes minutes. Data in S3 are checked by a listing, and the small files that params name
    are read.
    """
    if attempt.stated_data is not None:
        _check_stated(attempt, attempt.stated_data)
    elif any(str(location).startswith(SCHEME) for location in _data_locations(attempt)):
        _check_planned(
            attempt, "its data", str(attempt.recipe["data"]), attempt.fingerprint(attempt.params)
        )
    for field, digest in attempt.reads(attempt.params).items():
        _check_planned(attempt, field, str(attempt.recipe["inputs"][field]["sha256"]), digest)


def _check_stated(attempt: Attempt, stated: str) -> None:
    found = attempt.fingerprint(attempt.params)
    if found != stated:
        raise DataError(
            f"stages.{attempt.stage}.data_fingerprint is {stated}, but the data on "
            f"{socket.gethostname()} have {found}; correct the field or the data"
        )


def _check_planned(attempt: Attempt, what: str, planned: str, found: str) -> None:
    if found != planned:
        raise DataError(
            f"stages.{attempt.stage}: {what} changed after the run was planned, from "
            f"{planned[:_SHOWN]}... to {found[:_SHOWN]}..., so its Key would be wrong; run the job "
            "again to plan with the new content"
        )


def _data_locations(attempt: Attempt) -> Iterator[object]:
    return (getattr(attempt.params, field) for field in attempt.params.fields_with(Role.DATA))
