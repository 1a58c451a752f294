"""The driver's log: what `run` prints, and Python's log records, in the store next to the workers'
logs."""

from __future__ import annotations

import logging
import os
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from orchestrator.errors import OrchestratorError, StoreError
from orchestrator.redaction import redactor
from orchestrator.runs.record import record_name
from orchestrator.store.protocol import Store
from orchestrator.store.stage_logs import TIME_FORMAT, LogSettings, LogWriter, driver_folder

CLOSE_TIMEOUT_S = 10.0
"""How long the end of a run waits for a store that does not answer."""
MAX_WAITING_BYTES = 2**24
"""Lines that are kept in memory while the store is unreachable. Beyond that, the oldest are
dropped."""

_FORMAT = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", TIME_FORMAT)


class DriverLog:
    """Collects lines, and writes them in a thread. Only `close` waits for the store."""

    def __init__(self, store: Store, run_id: str, settings: LogSettings) -> None:
        limit_bytes = settings.limit_bytes(1)
        self._writer = LogWriter(store, driver_folder(run_id), limit_bytes)
        self._store = store
        self._record = record_name(run_id)
        self._has_record = False
        self._settings = settings
        self._lines: deque[bytes] = deque()
        self._num_bytes = 0
        """The size of the lines."""
        self._lock = threading.Lock()
        self._is_ending = threading.Event()
        self._thread = threading.Thread(target=self._ship, name="driver log", daemon=True)

    def add(self, text: str) -> None:
        """Add a line, or several."""
        if not self._settings.are_kept:
            return
        line = f"{text.rstrip()}\n".encode(errors="backslashreplace")
        with self._lock:
            self._lines.append(line)
            self._num_bytes += len(line)
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        while self._num_bytes > MAX_WAITING_BYTES:
            self._num_bytes -= len(self._lines.popleft())

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Write the rest, for at most CLOSE_TIMEOUT_S."""
        self._is_ending.set()
        self._thread.join(CLOSE_TIMEOUT_S)

    def _ship(self) -> None:
        while not self._is_ending.wait(self._settings.flush_s):
            self._write()
        self._write()

    def _write(self) -> None:
        with self._lock:
            lines, self._lines, self._num_bytes = self._lines, deque(), 0
        if not lines:
            return
        try:
            clean = redactor(os.environ, self._settings.secret_names).redacted
            self._await_record()
            self._writer.write(clean(b"".join(lines)))
        except Exception:  # noqa: BLE001  the journal reports a store; the lines wait for the next try
            with self._lock:
                self._lines.extendleft(reversed(lines))
                self._num_bytes = sum(map(len, self._lines))
                self._drop_oldest()

    def _await_record(self) -> None:
        """Raise StoreError until the run has a record. A run that never began leaves no folder."""
        if not self._has_record and self._store.read(self._record) is None:
            raise StoreError(f"store {self._store.uri}: {self._record} does not exist yet")
        self._has_record = True


@contextmanager
def driver_log(store: Store, run_id: str, settings: LogSettings) -> Iterator[DriverLog]:
    """Yield the log of a run, which also gets Python's log records of this process. An exception
    that leaves the block is its last text."""
    log = DriverLog(store, run_id, settings)
    if not settings.are_kept:
        yield log
        return
    before = logging.getLogRecordFactory()
    logging.setLogRecordFactory(_noting(before, log.add))
    log.start()
    try:
        yield log
    except BaseException as err:
        log.add(str(err) if isinstance(err, OrchestratorError) else traceback.format_exc())
        raise
    finally:
        logging.setLogRecordFactory(before)
        log.close()


def _noting(
    make: Callable[..., logging.LogRecord], note: Callable[[str], None]
) -> Callable[..., logging.LogRecord]:
    """A factory of records that passes each one to `note`. With a handler instead, Python would no
    longer print warnings by itself."""

    def make_and_note(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        with suppress(Exception):  # such as wrong arguments of a log call: its handler reports them
            note(_line_of(record))
        return record

    return make_and_note


def _line_of(record: logging.LogRecord) -> str:
    try:
        return _FORMAT.format(record)
    except Exception:  # noqa: BLE001  an argument's __str__ may raise anything
        time_ = time.strftime(TIME_FORMAT)
        return f"{time_} {record.levelname} {record.name}: {record.msg}"
