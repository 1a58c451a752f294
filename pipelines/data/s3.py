"""Reads and writes data sets below a prefix in S3."""

from __future__ import annotations

from pathlib import Path

from orchestrator.errors import DataError, UnreachableError
from orchestrator.s3 import client
from orchestrator.s3.bucket import SCHEME, Bucket, Object
from orchestrator.s3.failures import MISSING, Failure

THREADS = 8
"""Threads of one transfer; several loaders fetch in parallel."""
MAX_CONNECTIONS = 32

_CHANGED = frozenset({"412", "PreconditionFailed"})


def is_remote(data: str) -> bool:
    """Whether `data` names a location in S3."""
    return data.startswith(SCHEME)


class DataBucket(Bucket):
    """The objects of a data set, by their names below `uri`.

    Raises DataError for a missing object or denied access, and UnreachableError if the server does
    not answer.
    """

    no_bucket = "correct the stage's `data`, or create the bucket"

    def __init__(self, uri: str) -> None:
        super().__init__(uri, num_threads=THREADS, max_connections=MAX_CONNECTIONS)

    def as_error(self, failure: Failure, verb: str, name: str) -> DataError | UnreachableError:
        """The error for `failure`: DataError if the data are wrong, UnreachableError if a retry may
        help."""
        where = f"{self.uri}/{name}" if name and verb != "list" else self.uri
        if failure.code in MISSING:
            return DataError(f"{where}: missing; copy it there again, or write the index again")
        if failure.code in _CHANGED:
            return DataError(f"{where}: was replaced during the download; run again")
        kind = DataError if failure.is_lasting else UnreachableError
        return kind(f"{where}: cannot {verb}: {failure}")

    def sizes(self, prefix: str) -> dict[str, int]:
        """Size in bytes of each object whose name begins with `prefix` and has no further `/`."""
        return {one.name: one.size for one in self.objects(prefix, deep=False)}

    def read_part(self, one: Object, start: int, size: int) -> bytes:
        """`size` bytes from `start` on; raises DataError if the object changed since it was
        listed."""
        part = {"Range": f"bytes={start}-{start + size - 1}"} if size < one.size else {}
        with self.errors("read", one.name):
            return client.read_object(
                self.connection, **self.request(one.name), IfMatch=f'"{one.etag}"', **part
            )

    def download(self, name: str, path: Path) -> None:
        """Download into the existing file `path`; a longer file is truncated."""
        with self.errors("read", name), path.open("r+b") as file:
            size = self.connection.head_object(**self.request(name))["ContentLength"]
            self.connection.download_fileobj(
                **self.request(name), Fileobj=file, Config=self.transfers
            )
            file.truncate(size)

    def connect(self) -> None:
        """Create this process's client before its threads share it, so that not each thread creates
        one."""
        with self.errors("read", ""):
            _ = self.connection
