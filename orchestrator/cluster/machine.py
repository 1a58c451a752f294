"""Whether a machine has what a stage needs before it begins: room for temporary files, and the
run's store."""

from __future__ import annotations

import errno
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.cluster.attempt import Attempt
from orchestrator.errors import MachineError, StoreError, StoreRefusedError
from orchestrator.runs.record import record_name
from orchestrator.store import Store, open_store

LEAST_FREE_BYTES = 2**24
"""For what a stage writes in addition to its inputs, with the smallest of models."""


@contextmanager
def scratch_folder(prefix: str, *, num_bytes: int = 0) -> Iterator[Path]:
    """A temporary folder with room for `num_bytes`, deleted afterwards.

    Raises MachineError where there is none, and where a disk is full while it is in use.
    """
    try:
        scratch = tempfile.TemporaryDirectory(prefix=prefix)
    except OSError as err:
        raise _lacking(f"cannot make a folder for temporary files: {err.strerror or err}") from err
    with scratch as folder:
        usage, needed = shutil.disk_usage(folder), num_bytes + LEAST_FREE_BYTES
        if usage.total and usage.free < needed:
            room = f"{tempfile.gettempdir()} has {usage.free / 2**20:.0f} MiB free"
            raise _lacking(f"{room}, and the stage needs {needed / 2**20:.0f} MiB")
        try:
            yield Path(folder)
        except OSError as err:
            if is_full_disk(err):
                raise _lacking(f"a disk is full: {err}") from err
            raise


def is_full_disk(err: BaseException) -> bool:
    return isinstance(err, OSError) and err.errno in (errno.ENOSPC, errno.EDQUOT)


def input_bytes(attempt: Attempt) -> int:
    """The size of all inputs, which are fetched to this machine."""
    return sum(file.size for artifact in attempt.inputs.values() for file in artifact.files)


def check_store(attempt: Attempt, *, is_writer: bool) -> None:
    """Raises unless this machine reaches the store of the run, and may write to it where
    `is_writer`.

    MachineError where another try cannot help, else StoreError.
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
    """A folder that the machines do not share is empty there, and so is the same bucket of another
    server."""
    name = record_name(run_id)
    if store.read(name) is None:
        raise StoreRefusedError(
            f"store {store.uri}: is not the store of the driver, which has {name} in it; share one "
            "folder at the same path on all machines, or give s3://BUCKET/PREFIX by --store (with "
            "one AWS_ENDPOINT_URL)"
        )


def _lacking(what: str) -> MachineError:
    return MachineError(
        f"machine {socket.gethostname()}: {what}; free some space, or set TMPDIR to a folder that "
        "can be written "
        "before Ray starts there"
    )
