"""Move what a process writes to a local file into a log in the store, redacted, while it grows."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from orchestrator.errors import StoreError
from orchestrator.redaction import Redactor
from orchestrator.store.stage_logs import LogSettings, LogWriter

_KEEP_SIZE, _PUNCH_HOLE = 1, 2
"""Flags of Linux's fallocate(2)."""
_COPY_BYTES = 2**20


@dataclass
class LogTail:
    """The part of the file `fd` that is not in the store yet.

    The file is the buffer: while the store is unreachable, the text stays there.
    """

    fd: int
    copy_fd: int | None
    """A second place that gets the redacted lines at once, such as Ray's own log; or None."""
    writer: LogWriter
    settings: LogSettings
    redactor: Callable[[], Redactor]
    """Returns the secrets that are known now."""
    clock: Callable[[], float] = time.monotonic
    """In seconds."""
    stored: int = 0
    """The bytes of the file that are in the store."""
    copied: int = 0
    _waiting_since_s: float | None = None
    """When text that is not in the store was first seen, or its last try."""
    _failing_since_s: float | None = None

    def pump(self, *, is_end: bool = False) -> None:
        """Copy new lines, and write parts that are due. If `is_end`, also an unfinished line.

        Never raises for the store: the next call tries again.
        """
        size = os.fstat(self.fd).st_size
        if size > self.stored and self._waiting_since_s is None:
            self._waiting_since_s = self.clock()
        if size > self._finished:
            redactor = self.redactor()
            self._copy(size, redactor, is_end=is_end)
            while self._is_due(size, is_end=is_end) and self._store_part(redactor, is_end=is_end):
                self._free_disk()

    @property
    def is_complete(self) -> bool:
        """Whether all that the file has is in the store."""
        return self.stored == os.fstat(self.fd).st_size

    def _is_due(self, size: int, *, is_end: bool) -> bool:
        if size == self.stored or self._waiting_since_s is None:
            return False
        is_full = size - self.stored >= self._part_bytes and self._failing_since_s is None
        age_s = self.clock() - self._waiting_since_s
        return is_end or is_full or age_s >= self.settings.flush_s

    def _store_part(self, redactor: Redactor, *, is_end: bool) -> bool:
        """Write the next part. Returns whether text was written and more may follow."""
        raw = self._read(self.stored, self._part_bytes, redactor, is_end=is_end)
        self._waiting_since_s = self.clock()
        if not raw:
            return False
        try:
            self.writer.write(self._note() + redactor.redacted(raw))
        except StoreError:
            self._failing_since_s = self._failing_since_s or self.clock()
            return False
        self._failing_since_s = None
        self.stored += len(raw)
        if self.is_complete:
            self._waiting_since_s = None
        return True

    @property
    def _part_bytes(self) -> int:
        """The size of a part: several must fit the limit, since whole parts are deleted."""
        return max(1, min(self.settings.part_bytes, self.writer.limit_bytes // 8))

    def _note(self) -> bytes:
        """A line about an outage of the store that has ended."""
        if self._failing_since_s is None:
            return b""
        outage_s = self.clock() - self._failing_since_s
        return (
            f"[orchestrator: the store was unreachable for {outage_s:.0f} s; nothing was lost]\n"
        ).encode()

    def _copy(self, size: int, redactor: Redactor, *, is_end: bool) -> None:
        while self.copy_fd is not None and self.copied < size:
            raw = self._read(self.copied, _COPY_BYTES, redactor, is_end=is_end)
            if not raw:
                return
            try:
                _write_all(self.copy_fd, redactor.redacted(raw))
            except OSError:  # Ray's log has no reader or no space; the store has the same text
                self.copy_fd = None
            self.copied += len(raw)

    def _read(self, start: int, most: int, redactor: Redactor, *, is_end: bool) -> bytes:
        """Return about `most` bytes of whole lines from `start`, without splitting a secret."""
        raw = os.pread(self.fd, most + redactor.longest, start)
        is_rest = is_end and len(raw) <= most
        if is_rest:
            return raw
        end = max(raw.rfind(b"\n", 0, most), raw.rfind(b"\r", 0, most)) + 1
        if end:
            return raw[:end]
        return raw[: redactor.cut(raw, most)] if len(raw) > most else b""

    def _free_disk(self) -> None:
        """Free the disk space of what has been read. Its size stays, so writers can continue."""
        length = ctypes.c_int64(self._finished)
        with suppress(AttributeError):  # another system than Linux keeps the file until the end
            _libc().fallocate(self.fd, _PUNCH_HOLE | _KEEP_SIZE, ctypes.c_int64(0), length)

    @property
    def _finished(self) -> int:
        """The bytes that nobody reads again: they are both in the store and in Ray's log."""
        return self.stored if self.copy_fd is None else min(self.stored, self.copied)


@cache
def _libc() -> Any:
    return ctypes.CDLL(None)


def _write_all(fd: int, text: bytes) -> None:
    while text:
        text = text[os.write(fd, text) :]
