"""Keep in the store what a worker prints: Python, libraries, C++ and child processes.

File descriptors 1 and 2 lead to a local file for the time of the stage. A pipe would need a reader
at all times: an extension that prints while it holds Python's lock would then wait forever. A
thread moves the file's text to the store and to Ray's own log. A small process waits for the
worker to be killed or to end while the store is away, and then writes what the thread could not.
"""

from __future__ import annotations

import builtins
import ctypes
import logging
import os
import socket
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from orchestrator.cluster.attempt import Attempt
from orchestrator.cluster.log_shipment import Shipment
from orchestrator.errors import OrchestratorError
from orchestrator.store.stage_logs import TIME_FORMAT, LogName, LogSettings

END_TIMEOUT_S = 30.0
"""How long the end of a stage waits for a store that does not answer."""
_STDOUT, _STDERR = 1, 2

_log = logging.getLogger(__name__)
_captured = threading.Lock()
"""Held while this process's output is captured: there is only one standard output."""


@contextmanager
def captured_output(attempt: Attempt, *, rank: int, world_size: int) -> Iterator[None]:
    """Send the output of this process within the block to the log of the attempt's `rank`.

    An exception that leaves the block is the last text of the log. Faults of the store or of the
    disk never disturb the block.
    """
    name = LogName(attempt.trial, attempt.log_number, rank)
    folder = name.folder(str(attempt.provenance["run_id"]), attempt.stage)
    with captured(attempt.store_uri, folder, attempt.logs, num_logs=world_size), _own_records():
        _log.info(
            "stage %s, attempt %d, rank %d of %d, process %d on %s",
            attempt.stage,
            attempt.log_number,
            rank,
            world_size,
            os.getpid(),
            socket.gethostname(),
        )
        yield


@contextmanager
def _own_records() -> Iterator[None]:
    """Print the orchestrator's own log records within the block, such as the stage's progress."""
    log = logging.getLogger("orchestrator")
    before = log.level, log.propagate
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", TIME_FORMAT))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False  # Ray Train has a handler for all records, which prints them, too
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before[0])
        log.propagate = before[1]


@contextmanager
def captured(
    store_uri: str, folder: str, settings: LogSettings, *, num_logs: int
) -> Iterator[None]:
    """Send the output of this process within the block to the log `folder` of a store."""
    if not settings.are_kept or not _captured.acquire(blocking=False):
        yield
        return
    try:
        output = _begin(store_uri, folder, settings, num_logs=num_logs)
        if output is None:
            yield
            return
        with output.redirected():
            yield
    finally:
        _captured.release()


def _begin(store_uri: str, folder: str, settings: LogSettings, *, num_logs: int) -> _Output | None:
    """Return the output's new place, or None if there can be none: the stage matters more than its
    log."""
    fds: list[int] = []
    try:
        fds.append(_local_file())
        fds += [os.dup(_STDOUT)]
        fds += [os.dup(_STDERR)]
        fd, stdout, stderr = fds
        shipment = Shipment(store_uri, folder, settings, fd=fd, copy_fd=stderr, num_logs=num_logs)
    except Exception as err:  # noqa: BLE001  its text is not redacted, so only its name is shown
        for fd in fds:
            os.close(fd)
        _log.warning("the output of %s is not kept in the store: %s", folder, type(err).__name__)
        return None
    return _Output(shipment, fd, (stdout, stderr))


@dataclass(frozen=True)
class _Output:
    """The file that gets the output within a block, and the thread and process that ship it."""

    shipment: Shipment
    fd: int
    before: tuple[int, int]
    """Copies of standard output and error as they were."""

    @contextmanager
    def redirected(self) -> Iterator[None]:
        """Print to the file within the block."""
        _flush()
        try:
            for standard in (_STDOUT, _STDERR):
                os.dup2(self.fd, standard)
            with _plain_print():
                yield
        except BaseException as err:
            _print_last(err)
            raise
        finally:
            _flush()
            for standard, original in zip((_STDOUT, _STDERR), self.before, strict=True):
                os.dup2(original, standard)
            is_over = self.shipment.finish(timeout_s=END_TIMEOUT_S)
            if is_over:  # otherwise the thread still uses them, until the process ends
                for used in (self.fd, *self.before):
                    os.close(used)


def _local_file() -> int:
    """Return an unnamed file. Raises OSError if the disk has no place."""
    fd, path = tempfile.mkstemp(prefix="orchestrator-log-")
    os.close(fd)
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
    os.unlink(path)  # noqa: PTH108  a file that disappears by itself
    return fd


def _flush() -> None:
    """Write what Python and C have buffered to the present descriptors."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    ctypes.CDLL(None).fflush(None)


@contextmanager
def _plain_print() -> Iterator[None]:
    """Undo within the block what Ray Train does to `print`: it prints every line twice, once as a
    log record."""
    current = builtins.print
    plain = getattr(sys.modules.get(current.__module__), "_original_print", current)
    builtins.print = plain
    try:
        yield
    finally:
        builtins.print = current


def _print_last(err: BaseException) -> None:
    if isinstance(err, SystemExit):  # Ray Tune ends a trial so when its scheduler stops it
        return
    text = str(err) if isinstance(err, OrchestratorError) else traceback.format_exc()
    _flush()  # what was printed before
    with suppress(OSError):
        os.write(_STDERR, f"{text.rstrip()}\n".encode(errors="backslashreplace"))
