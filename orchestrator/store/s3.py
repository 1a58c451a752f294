"""A Store in a bucket of S3, or of a server that speaks its protocol. Credentials: boto3's standard chain alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from orchestrator import s3, s3_failures
from orchestrator.errors import StoreError, StoreRefusedError

THREADS = 16
"""Of one transfer."""
CONFLICT_TRIES = 5
"""Of a create that meets another one under way; S3 asks to try again."""
CONFLICT_WAIT_S = 0.2

_TRANSFER = s3.transfers(num_threads=THREADS)
_NO_BUCKET = "create the bucket, or give another one by `store:` in the job or --store"


class S3Store:
    """Whole objects are put at once; create-only by a conditional put, which the server has to honour (as S3 does)."""

    def __init__(self, bucket: str, prefix: str) -> None:
        """`prefix` is the folder of the store in the bucket, empty for the bucket itself."""
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""

    @property
    def uri(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}".removesuffix("/")

    def read(self, name: str) -> bytes | None:
        with self._errors("read", name):
            try:
                return s3.read_object(self._client, **self._object(name))
            except ClientError as err:
                if s3_failures.code_of(err) in s3_failures.MISSING:
                    return None
                raise

    def write(self, name: str, content: bytes) -> None:
        with self._errors("write", name):
            self._client.put_object(**self._object(name), Body=content)

    def create(self, name: str, content: bytes) -> bool:
        with self._errors("write", name):
            for _ in range(CONFLICT_TRIES):
                try:
                    self._client.put_object(**self._object(name), Body=content, IfNoneMatch="*")
                except ClientError as err:
                    if s3_failures.code_of(err) == "PreconditionFailed":
                        return False
                    if s3_failures.code_of(err) != "ConditionalRequestConflict":
                        raise
                    time.sleep(CONFLICT_WAIT_S)
                else:
                    return True
        raise StoreError(f"store {self.uri}: cannot write {name}: others went on writing it; run again")

    def upload(self, name: str, path: Path) -> None:
        with self._errors("write", name):
            self._uploads.upload_file(str(path), **self._object(name), Config=_TRANSFER)

    def download(self, name: str, path: Path) -> bool:
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._errors("read", name):
            try:
                self._client.download_file(**self._object(name), Filename=str(path), Config=_TRANSFER)
            except ClientError as err:
                if s3_failures.code_of(err) in s3_failures.MISSING:
                    return False
                raise
            return True

    def delete(self, name: str) -> None:
        with self._errors("delete", name):
            self._client.delete_object(**self._object(name))

    def names(self, prefix: str) -> list[str]:
        with self._errors("read", prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=f"{self._prefix}{prefix}/"
            )
            keys = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
        return sorted(key.removeprefix(self._prefix) for key in keys)

    @cached_property
    def _client(self) -> Any:
        return s3.new_client(max_connections=THREADS, read_timeout_s=s3.READ_TIMEOUT_S)

    @cached_property
    def _uploads(self) -> Any:
        return s3.new_client(max_connections=THREADS, read_timeout_s=s3.UPLOAD_READ_TIMEOUT_S)

    def _object(self, name: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + name}

    @contextmanager
    def _errors(self, verb: str, name: str) -> Iterator[None]:
        try:
            yield
        except s3_failures.errors() as err:
            failure = s3_failures.explain(err, no_bucket=_NO_BUCKET)
            kind = StoreRefusedError if failure.is_lasting else StoreError
            raise kind(f"store {self.uri}: cannot {verb} {name}: {failure}") from failure.behind
