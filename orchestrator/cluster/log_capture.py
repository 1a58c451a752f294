"""Keep in the store what a worker prints: Python, libraries, C++ and child processes.

File descriptors 1 and 2 lead to a local file for the time of the stage. A pipe would need a reader
at all times: an extension that prints while it holds Python's lock would then wait forever. A
thread moves the file's text to the store and to Ray's own log. A small process waits for the
worker to be killed or to end while the store is away, and then writes what the thread could not.
"""

from __future__ import annotations

import builtins
import ctypes
import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from orchestrator.cluster.attempt import Attempt
from orchestrator.cluster.log_rescue import Rest
from orchestrator.errors import OrchestratorError
from orchestrator.redaction import Redactor, secret_forms, secrets_of
from orchestrator.s3.client import known_secrets
from orchestrator.store import open_store
from orchestrator.store.log_tail import LogTail
from orchestrator.store.stage_logs import TIME_FORMAT, LogName, LogSettings, LogWriter

POLL_S = 0.5
"""How often the thread looks for new lines."""
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
        shipment = _begin(store_uri, folder, settings, num_logs=num_logs)
        if shipment is None:
            yield
            return
        with shipment.redirected():
            yield
    finally:
        _captured.release()


def _begin(
    store_uri: str, folder: str, settings: LogSettings, *, num_logs: int
) -> _Shipment | None:
    """Return a new shipment, or None if there can be none: the stage matters more than its log."""
    fds: list[int] = []
    try:
        fds.append(_local_file())
        fds += [os.dup(_STDOUT)]
        fds += [os.dup(_STDERR)]
        return _Shipment(store_uri, folder, settings, *fds, num_logs=num_logs)
    except Exception as err:  # noqa: BLE001  its text is not redacted, so only its name is shown
        for fd in fds:
            os.close(fd)
        _log.warning("the output of %s is not kept in the store: %s", folder, type(err).__name__)
        return None


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


class _Shipment:
    """The thread that moves the output, and the process that does so if this one is killed."""

    def __init__(
        self,
        store_uri: str,
        folder: str,
        settings: LogSettings,
        fd: int,
        stdout: int,
        stderr: int,
        *,
        num_logs: int,
    ) -> None:
        """`stdout` and `stderr` are copies of what the process prints to outside the block."""
        self._fd, self._before, copy_fd = fd, (stdout, stderr), stderr
        limit_bytes = settings.limit_bytes(num_logs)
        writer = LogWriter(open_store(store_uri), folder, limit_bytes)
        self._secret_names = settings.secret_names
        self._secrets = secrets_of(os.environ, self._secret_names)
        self._faults: set[type[Exception]] = set()
        self._tail = LogTail(fd, copy_fd, writer, settings, self._redactor)
        self._place = Rest(store_uri, folder, limit_bytes, fd=fd, copy_fd=copy_fd)
        self._reported: Rest | None = None
        self._rescue = _start_rescue(fd, copy_fd)
        self._poll_s = min(POLL_S, settings.flush_s)
        self._is_ending = threading.Event()
        self._thread = threading.Thread(target=self._ship, name="log", daemon=True)
        self._report()
        self._thread.start()

    @contextmanager
    def redirected(self) -> Iterator[None]:
        """Ship what the process prints within the block."""
        _flush()
        try:
            for standard in (_STDOUT, _STDERR):
                os.dup2(self._fd, standard)
            with _plain_print():
                yield
        except BaseException as err:
            _print_last(err)
            raise
        finally:
            _flush()
            for standard, original in zip((_STDOUT, _STDERR), self._before, strict=True):
                os.dup2(original, standard)
            is_over = self.finish(timeout_s=END_TIMEOUT_S)
            if is_over:  # otherwise the thread still uses them, until the process ends
                for used in (self._fd, *self._before):
                    os.close(used)

    def _ship(self) -> None:
        while not self._is_ending.wait(self._poll_s):
            self._pump()
        self._pump(is_end=True)

    def _pump(self, *, is_end: bool = False) -> None:
        try:
            try:
                self._tail.pump(is_end=is_end)
            finally:  # a part of it may be done
                self._report()
        except Exception as err:  # noqa: BLE001  the thread's edge: it tries again, the stage goes on
            self._show_once(err)

    def _show_once(self, err: Exception) -> None:
        """Show each kind of error once: the thread may meet it at each poll, for days."""
        if type(err) in self._faults:
            return
        self._faults.add(type(err))
        text = traceback.format_exc().encode(errors="backslashreplace")
        with suppress(Exception):  # the redactor itself may be what fails
            os.write(self._place.copy_fd, self._redactor().redacted(text))

    def _redactor(self) -> Redactor:
        # Credentials that were renewed stay secret until they expire.
        self._secrets |= secrets_of(os.environ, self._secret_names)
        self._secrets |= secret_forms(known_secrets())
        return Redactor(self._secrets)

    def _report(self) -> None:
        """Report to the rescue process where it would have to resume."""
        tail = self._tail
        rest = self._place.at(tail.stored, tail.copied, tail.writer.num_parts, self._secrets)
        if self._rescue is None or self._rescue.stdin is None or rest == self._reported:
            return
        self._reported = rest
        try:
            self._rescue.stdin.write(json.dumps(rest.to_json()).encode() + b"\n")
            self._rescue.stdin.flush()
        except OSError:  # it was killed: only the output of a killed worker is less complete
            self._rescue = None

    def finish(self, *, timeout_s: float) -> bool:
        """Write the rest, and end. Returns whether the thread ended in time.

        If the store is away, the other process writes the rest when it is back.
        """
        self._is_ending.set()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            return False
        if self._rescue is not None and self._rescue.stdin is not None:
            is_complete = self._tail.is_complete
            with suppress(OSError):
                if is_complete:
                    self._rescue.stdin.write(b"done\n")
                self._rescue.stdin.close()
            if is_complete:
                self._rescue.wait()
            else:  # it may take a minute, but without a wait it would remain as a zombie
                threading.Thread(target=self._rescue.wait, daemon=True).start()
        return True


def _start_rescue(fd: int, copy_fd: int) -> subprocess.Popen[bytes] | None:
    command = [sys.executable, "-m", "orchestrator.cluster.log_rescue", str(os.getpid())]
    # Ray extends sys.path for the code of a submitted job.
    path = os.pathsep.join(place or os.curdir for place in sys.path)
    try:
        return subprocess.Popen(  # noqa: S603  our own arguments
            command,
            stdin=subprocess.PIPE,
            stdout=copy_fd,
            stderr=copy_fd,
            pass_fds=(fd, copy_fd),
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # signals for the worker's group are not for this process
        )
    except OSError:
        return None
