"""Move a worker's output from its local file to the store and to Ray's own log.

A thread does so, and a small process continues if the worker is killed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import traceback
from contextlib import suppress
from typing import IO

from orchestrator.cluster.log_rescue import Rest
from orchestrator.process import Process
from orchestrator.redaction import Redactor, secret_forms, secrets_of
from orchestrator.s3.client import known_secrets
from orchestrator.store import open_store
from orchestrator.store.log_tail import LogTail
from orchestrator.store.stage_logs import LogSettings, LogWriter

POLL_S = 0.5
"""How often the thread looks for new lines."""


class Shipment:
    """The thread that moves the output, and the process that does so if this one is killed."""

    def __init__(
        self,
        store_uri: str,
        folder: str,
        settings: LogSettings,
        *,
        fd: int,
        copy_fd: int,
        num_logs: int,
    ) -> None:
        """`fd` is the file with the output, `copy_fd` Ray's own log."""
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
        except Exception as err:  # noqa: BLE001  the thread's edge: it tries again, the stage continues
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
        if self._rescue is None or rest == self._reported:
            return
        self._reported = rest
        try:
            self._rescue.write(json.dumps(rest.to_json()).encode() + b"\n")
            self._rescue.flush()
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
        if self._rescue is not None:
            with suppress(OSError):
                if self._tail.is_complete:
                    self._rescue.write(b"done\n")
                self._rescue.close()
        return True


def _start_rescue(fd: int, copy_fd: int) -> IO[bytes] | None:
    """Start the rescue process, and return its standard input. None if it cannot be started.

    When Ray ends a worker it also kills the worker's children, so a shell starts the process, and
    ends at once. A shell gives a process in the background no input unless it is told to.
    """
    spare = next(number for number in range(3, 6) if number not in (fd, copy_fd))
    script = f'{{ "$@" <&{spare} {spare}<&- & }} {spare}<&0'
    command = [
        sys.executable,
        "-m",
        "orchestrator.cluster.log_rescue",
        *map(str, Process.current()),
    ]
    # Ray extends sys.path for the code of a submitted job.
    path = os.pathsep.join(place or os.curdir for place in sys.path)
    try:
        shell = subprocess.Popen(  # noqa: S603  our own arguments
            ["/bin/sh", "-c", script, "sh", *command],
            stdin=subprocess.PIPE,
            stdout=copy_fd,
            stderr=copy_fd,
            pass_fds=(fd, copy_fd),
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # signals for the worker's group are not for this process
        )
    except OSError:
        return None
    shell.wait()
    return shell.stdin
