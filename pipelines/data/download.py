"""Downloads S3 objects in parallel and in parts. A file with an object's name is always complete.

What a killed process fetched is kept. For a large object, a journal lists the finished parts.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from orchestrator.errors import DataError
from pipelines.data.digests import digest_of_file
from pipelines.data.faults import first_named
from pipelines.data.listing import Listed
from pipelines.data.s3 import DataBucket

PART_BYTES = 2**24
THREADS = 16
TRIES = 2
"""Downloads of an object whose bytes do not match its sha256: a transfer may go wrong once."""
TELL_EVERY_S = 5.0

ProgressReporter = Callable[[str], None]
"""Called with progress text. If it raises, no new part is started; started parts finish first."""


def download(
    bucket: DataBucket, wanted: Mapping[Path, Listed], report_progress: ProgressReporter
) -> None:
    """Make each path hold its object; raises DataError if one is replaced meanwhile or does not
    match its sha256."""
    wrong: list[str] = []
    for _ in range(TRIES):
        downloads = [_Download(path, one) for path, one in wanted.items() if not path.exists()]
        wrong = _fetch(bucket, downloads, report_progress)
        if not wrong:
            return
    names = first_named(wrong)
    raise DataError(
        f"{bucket.uri}: bytes differ from SHA256SUMS: {names}; upload them again, or correct "
        "SHA256SUMS"
    )


class _Part(NamedTuple):
    download: _Download
    start: int
    size: int


class _Download:
    """One object that is being downloaded to `path`; threads write its parts."""

    def __init__(self, path: Path, one: Listed) -> None:
        self.path, self.listed = path, one
        self._partial, self._journal = path.with_suffix(".partial"), path.with_suffix(".parts")
        self._has_parts = one.object.size > PART_BYTES
        self._lock = threading.Lock()
        self._done = self._written()

    def parts(self) -> Iterator[_Part]:
        """The missing parts; an empty object has one part of no bytes."""
        for start in range(0, max(self.listed.object.size, 1), PART_BYTES):
            if start not in self._done:
                yield _Part(self, start, self._size_from(start))

    def write(self, start: int, content: bytes) -> bool:
        """Write a part; return whether the object is now complete."""
        descriptor = os.open(self._partial, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.pwrite(descriptor, content, start)
            if self._has_parts:
                # Before the journal is written, so that it is true even after a crash of the
                # machine.
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        with self._lock:
            self._done.add(start)
            if self._has_parts:
                with self._journal.open("a") as journal:
                    journal.write(f"{start} {len(content)}\n")
            return next(self.parts(), None) is None

    def is_right(self) -> bool:
        """Check the bytes against the sha256; give the file its name if they match, delete it
        otherwise."""
        is_right = self.listed.sha256 in (
            None,
            digest_of_file(self._partial) if self.listed.sha256 else None,
        )
        if is_right:
            self._partial.replace(self.path)
        self._partial.unlink(missing_ok=True)
        self._journal.unlink(missing_ok=True)
        return is_right

    def _written(self) -> set[int]:
        """Starts of the parts that an earlier process wrote; an incomplete line does not count."""
        if not (self._partial.is_file() and self._journal.is_file()):
            self._journal.unlink(missing_ok=True)
            return set()
        lines = [line.split() for line in self._journal.read_text().split("\n")[:-1]]
        return {int(start) for start, size in lines if int(size) == self._size_from(int(start))}

    def _size_from(self, start: int) -> int:
        """Bytes of the part that begins at `start`."""
        return min(PART_BYTES, self.listed.object.size - start)


class _Progress:
    """Reports the bytes fetched so far, every TELL_EVERY_S seconds."""

    def __init__(self, uri: str, total: int, report_progress: ProgressReporter) -> None:
        self._uri, self._total, self._report = uri, total, report_progress
        self._done, self._reported_s = 0, time.monotonic()

    def add(self, num_bytes: int) -> None:
        self._done += num_bytes
        if time.monotonic() - self._reported_s >= TELL_EVERY_S:
            self._reported_s = time.monotonic()
            self._report(
                f"fetching {self._uri}: {self._done / 2**30:.2f} of {self._total / 2**30:.2f} GiB"
            )


def _fetch(
    bucket: DataBucket, downloads: list[_Download], report_progress: ProgressReporter
) -> list[str]:
    """Fetch the objects; return the names of objects whose bytes do not match their sha256."""
    wrong: list[str] = []

    def fetch(part: _Part) -> int:
        one = part.download
        content = bucket.read_part(one.listed.object, part.start, part.size) if part.size else b""
        if len(content) != part.size:
            raise DataError(f"{bucket.uri}/{one.listed.object.name}: ends early; upload it again")
        if one.write(part.start, content) and not one.is_right():
            wrong.append(one.listed.object.name)
        return part.size

    parts = [part for one in downloads for part in one.parts()]
    progress = _Progress(bucket.uri, sum(part.size for part in parts), report_progress)
    bucket.connect()
    pool = ThreadPoolExecutor(THREADS)
    try:
        for size in pool.map(fetch, parts):
            progress.add(size)
    finally:
        pool.shutdown(cancel_futures=True)
    # All parts may be present if the process was killed before the file got its name.
    for one in downloads:
        if not one.path.exists() and one.listed.object.name not in wrong and not one.is_right():
            wrong.append(one.listed.object.name)
    return wrong
