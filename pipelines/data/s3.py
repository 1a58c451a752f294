"""Reading and writing below a prefix in S3. Credentials: boto3's standard chain alone; nothing of them is shown."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator import s3, s3_failures
from orchestrator.errors import DataError, UnreachableError

S3 = "s3://"
THREADS = 8
"""Of one transfer; loaders fetch side by side."""
MAX_CONNECTIONS = 32

_CHANGED = frozenset({"412", "PreconditionFailed"})
_NO_BUCKET = "correct the stage's `data`, or create the bucket"


class Object(NamedTuple):
    """An object below a prefix. `etag` changes with its bytes; it is a digest of them for some uploads only."""

    name: str
    size: int
    etag: str


class Bucket:
    """Objects by their names below `uri`. Its client is made in each process that needs one, so that it may be forked.

    Raises DataError for what is missing or not allowed, UnreachableError when the server does not answer.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self._bucket, _, prefix = self.uri.removeprefix(S3).partition("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._clients: dict[tuple[int, float], Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_clients": {}}

    def sizes(self, prefix: str) -> dict[str, int]:
        """Bytes of each object by name, where that begins with `prefix` and has no further `/`."""
        return {one.name: one.size for one in self.objects(prefix, deep=False)}

    def objects(self, prefix: str, *, deep: bool) -> list[Object]:
        """Those whose names begin with `prefix`, in the order of their names; `deep`: also with a further `/`."""
        depth = {} if deep else {"Delimiter": "/"}
        with self._errors("list", ""):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix, **depth
            )
            entries = [entry for page in pages for entry in page.get("Contents", ())]
        return [
            Object(entry["Key"].removeprefix(self._prefix), entry["Size"], entry["ETag"].strip('"'))
            for entry in entries
        ]

    def read_part(self, one: Object, start: int, size: int) -> bytes:
        """`size` bytes from `start` on; raises DataError when the object is not the one that was listed any more."""
        part = {"Range": f"bytes={start}-{start + size - 1}"} if size < one.size else {}
        with self._errors("read", one.name):
            return s3.read_object(self._client, **self._object(one.name), IfMatch=f'"{one.etag}"', **part)

    def read(self, name: str) -> bytes | None:
        with self._errors("read", name):
            try:
                return s3.read_object(self._client, **self._object(name))
            except self._client.exceptions.NoSuchKey:
                return None

    def write(self, name: str, content: bytes) -> None:
        with self._errors("write", name):
            self._client.put_object(**self._object(name), Body=content)

    def upload(self, name: str, path: Path) -> None:
        with self._errors("write", name):
            self._uploads.upload_file(str(path), **self._object(name), Config=s3.transfers(num_threads=THREADS))

    def download(self, name: str, path: Path) -> None:
        """Into `path`, which exists; a longer file is cut."""
        with self._errors("read", name), path.open("r+b") as file:
            size = self._client.head_object(**self._object(name))["ContentLength"]
            self._client.download_fileobj(**self._object(name), Fileobj=file, Config=s3.transfers(num_threads=THREADS))
            file.truncate(size)

    def delete(self, name: str) -> None:
        with self._errors("delete", name):
            self._client.delete_object(**self._object(name))

    def connect(self) -> None:
        """Make this process's client, before threads that share it each make one."""
        with self._errors("read", ""):
            _ = self._client

    @property
    def _client(self) -> Any:
        return self._of_this_process(s3.READ_TIMEOUT_S)

    @property
    def _uploads(self) -> Any:
        return self._of_this_process(s3.UPLOAD_READ_TIMEOUT_S)

    def _of_this_process(self, read_timeout_s: float) -> Any:
        """The client with such a timeout; one that was made before a fork is not used after it."""
        key = os.getpid(), read_timeout_s
        if key not in self._clients:
            self._clients[key] = s3.new_client(max_connections=MAX_CONNECTIONS, read_timeout_s=read_timeout_s)
        return self._clients[key]

    def _object(self, name: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + name}

    @contextmanager
    def _errors(self, verb: str, name: str) -> Iterator[None]:
        try:
            yield
        except s3_failures.errors() as err:
            failure = s3_failures.explain(err, no_bucket=_NO_BUCKET)
            raise _as_ours(failure, f"{self.uri}/{name}" if name else self.uri, verb) from failure.behind


def _as_ours(failure: s3_failures.Failure, where: str, verb: str) -> DataError | UnreachableError:
    """The data are wrong, or another try may help."""
    if failure.code in s3_failures.MISSING:
        return DataError(f"{where}: missing; copy it there again, or write the index anew")
    if failure.code in _CHANGED:
        return DataError(f"{where}: was replaced while it was fetched; run again")
    kind = DataError if failure.is_lasting else UnreachableError
    return kind(f"{where}: cannot {verb}: {failure}")
