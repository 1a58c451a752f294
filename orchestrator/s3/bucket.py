"""Objects below a prefix in S3, for the store and for data sets.

Credentials come only from boto3's standard chain and are never shown.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.s3 import client, failures
from orchestrator.s3.failures import MISSING, Failure, code_of

SCHEME = "s3://"


class Object(NamedTuple):
    """An object below a prefix. `etag` changes with its bytes, but is their digest only for some
    uploads."""

    name: str
    size: int
    etag: str


class Bucket(ABC):
    """Objects below `uri`, by name, transferred with `num_threads` threads.

    It may be forked and pickled: each process makes its own client.
    """

    no_bucket: str
    """What to do about a bucket that does not exist."""

    def __init__(self, uri: str, *, num_threads: int, max_connections: int) -> None:
        self.uri = uri.rstrip("/")
        self._bucket, _, prefix = self.uri.removeprefix(SCHEME).partition("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._num_threads, self._max_connections = num_threads, max_connections
        self._clients: dict[tuple[int, float], Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_clients": {}}

    @abstractmethod
    def as_error(self, failure: Failure, verb: str, name: str) -> Exception:
        """Return the error to raise if the object `name` could not be read, written, listed or
        deleted (`verb`). An empty `name` means all objects."""

    def objects(self, prefix: str, *, deep: bool) -> list[Object]:
        """Return the objects whose names begin with `prefix`, sorted by name. `deep`: include those
        with a further `/`."""
        entries = self._list(prefix, "Contents", deep=deep)
        return [
            Object(self.name_of(entry["Key"]), entry["Size"], entry["ETag"].strip('"'))
            for entry in entries
        ]

    def folders_below(self, prefix: str) -> list[str]:
        """Return the names up to the next `/` of the objects whose names begin with `prefix`,
        without `prefix`, sorted."""
        entries = self._list(prefix, "CommonPrefixes", deep=False)
        start = len(self._prefix + prefix)
        return [entry["Prefix"][start:].rstrip("/") for entry in entries]

    def _list(self, prefix: str, field: str, *, deep: bool) -> list[Any]:
        """Return the entries of `field` in all pages of a listing."""
        with self.errors("list", prefix):
            return [
                entry for page in self.pages(prefix, deep=deep) for entry in page.get(field, ())
            ]

    def pages(self, prefix: str, *, deep: bool) -> Iterator[Any]:
        """Yield the answers to a listing, each with up to 1000 objects. Raises boto3's errors."""
        depth = {} if deep else {"Delimiter": "/"}
        paginator = self.connection.get_paginator("list_objects_v2")
        yield from paginator.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix, **depth)

    def name_of(self, key: str) -> str:
        """The name below `uri` of the object with this key."""
        return key.removeprefix(self._prefix)

    def read(self, name: str) -> bytes | None:
        """Return the bytes of an object, or None if it does not exist."""
        with self.errors("read", name):
            try:
                return client.read_object(self.connection, **self.request(name))
            except failures.errors() as err:
                if code_of(err) in MISSING:
                    return None
                raise

    def write(self, name: str, content: bytes) -> None:
        with self.errors("write", name):
            self.connection.put_object(**self.request(name), Body=content)

    def upload(self, name: str, path: Path) -> None:
        with self.errors("write", name):
            uploads = self._client_of_this_process(client.UPLOAD_READ_TIMEOUT_S)
            uploads.upload_file(str(path), **self.request(name), Config=self.transfers)

    def delete(self, name: str) -> None:
        with self.errors("delete", name):
            self.connection.delete_object(**self.request(name))

    @property
    def connection(self) -> Any:
        """The boto3 client of this process."""
        return self._client_of_this_process(client.READ_TIMEOUT_S)

    @property
    def transfers(self) -> Any:
        """The settings of uploads and downloads."""
        return client.transfers(num_threads=self._num_threads)

    def request(self, name: str) -> dict[str, str]:
        """The arguments that name an object for boto3."""
        return {"Bucket": self._bucket, "Key": self._prefix + name}

    @contextmanager
    def errors(self, verb: str, name: str) -> Iterator[None]:
        """Convert the errors that boto3 raises within the block with `as_error`."""
        try:
            yield
        except failures.errors() as err:
            failure = failures.explain(err, no_bucket=self.no_bucket)
            raise self.as_error(failure, verb, name) from failure.behind

    def _client_of_this_process(self, read_timeout_s: float) -> Any:
        """The client with this timeout. A client made before a fork is not used after it."""
        key = os.getpid(), read_timeout_s
        if key not in self._clients:
            self._clients[key] = client.new_client(
                max_connections=self._max_connections, read_timeout_s=read_timeout_s
            )
        return self._clients[key]
