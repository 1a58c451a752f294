"""Reading and writing below a prefix in S3. Credentials: boto3's standard chain alone; nothing of them is shown."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.errors import DataError, UnreachableError

S3 = "s3://"
MAX_ATTEMPTS = 5
"""Tries at a request, with waits of up to 1, 2, 4 and 8 s between them."""

_MISSING = frozenset({"404", "NoSuchKey"})
_CHANGED = frozenset({"412", "PreconditionFailed"})
_HINTS = {
    "NoSuchBucket": "correct the stage's `data`, or create the bucket",
    "403": "the credentials found by AWS's standard chain may not do that",
    "AccessDenied": "the credentials found by AWS's standard chain may not do that",
    "InvalidAccessKeyId": "the server does not know the credentials found by AWS's standard chain",
    "SignatureDoesNotMatch": "the secret found by AWS's standard chain is wrong for its key",
}
_NO_CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or a role of the machine"
_OUT_OF_REACH = "check the network and AWS_ENDPOINT_URL"
_USERINFO = re.compile(r"//[^/?#\s\"]*@")
"""What stands before the host in a URL such as `http://name:secret@host`."""


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
        self._client_of: tuple[int, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_client_of": None}

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
            for attempt in range(1, MAX_ATTEMPTS + 1):
                try:
                    answer = self._client.get_object(**self._object(one.name), IfMatch=f'"{one.etag}"', **part)
                    content: bytes = answer["Body"].read()
                except _broken_off():  # boto3 tries requests again, but not the reading of an answer
                    if attempt == MAX_ATTEMPTS:
                        raise
                else:
                    return content
        raise AssertionError("the last attempt returns or raises")

    def read(self, name: str) -> bytes | None:
        with self._errors("read", name):
            try:
                content: bytes = self._client.get_object(**self._object(name))["Body"].read()
            except self._client.exceptions.NoSuchKey:
                return None
            return content

    def write(self, name: str, content: bytes) -> None:
        with self._errors("write", name):
            self._client.put_object(**self._object(name), Body=content)

    def upload(self, name: str, path: Path) -> None:
        with self._errors("write", name):
            self._client.upload_file(str(path), **self._object(name), Config=_transfer())

    def download(self, name: str, path: Path) -> None:
        """Into `path`, which exists; a longer file is cut."""
        with self._errors("read", name), path.open("r+b") as file:
            size = self._client.head_object(**self._object(name))["ContentLength"]
            self._client.download_fileobj(**self._object(name), Fileobj=file, Config=_transfer())
            file.truncate(size)

    def delete(self, name: str) -> None:
        with self._errors("delete", name):
            self._client.delete_object(**self._object(name))

    @property
    def _client(self) -> Any:
        if self._client_of is None or self._client_of[0] != os.getpid():
            self._client_of = os.getpid(), _new_client()
        return self._client_of[1]

    def _object(self, name: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + name}

    @contextmanager
    def _errors(self, verb: str, name: str) -> Iterator[None]:
        from boto3.exceptions import S3UploadFailedError  # noqa: PLC0415  only data in S3 pay for the import
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError  # noqa: PLC0415

        where = f"{self.uri}/{name}" if name else self.uri
        try:
            yield
        except (BotoCoreError, ClientError, S3UploadFailedError) as err:
            # An upload's error stands behind the one that wraps it.
            cause = err.__context__ if isinstance(err, S3UploadFailedError) else err
            if isinstance(cause, NoCredentialsError):
                raise DataError(f"{where}: cannot {verb}: no credentials for S3; {_NO_CREDENTIALS}") from err
            if isinstance(cause, ClientError):
                raise _refusal(cause.response, where, verb) from err
            shown = _USERINFO.sub("//", str(cause))
            # What stands behind an error is shown too where a traceback is.
            behind = err if shown == str(cause) else None
            raise UnreachableError(f"{where}: cannot {verb}: {shown.rstrip('.')}; {_OUT_OF_REACH}") from behind


def _broken_off() -> tuple[type[Exception], ...]:
    from botocore.exceptions import HTTPClientError, IncompleteReadError  # noqa: PLC0415  as above

    return HTTPClientError, IncompleteReadError


def _refusal(response: Any, where: str, verb: str) -> DataError | UnreachableError:
    """What the server's error means: the data are wrong, or another try may help."""
    error = response.get("Error", {})
    code = str(error.get("Code", ""))
    if code in _MISSING:
        return DataError(f"{where}: missing; copy it there again, or write the index anew")
    if code in _CHANGED:
        return DataError(f"{where}: was replaced while it was fetched; run again")
    message = str(error.get("Message") or code).rstrip(".")
    if code in _HINTS:
        return DataError(f"{where}: cannot {verb}: {message}; {_HINTS[code]}")
    return UnreachableError(f"{where}: cannot {verb}: {message}; {_OUT_OF_REACH}")


def _new_client() -> Any:
    """For several threads."""
    import boto3  # noqa: PLC0415  only data in S3 pay for the import
    from botocore.config import Config  # noqa: PLC0415
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415

    config = Config(
        retries={"mode": "standard", "max_attempts": MAX_ATTEMPTS},
        connect_timeout=10,
        max_pool_connections=32,
        # A server may send the whole object's checksum with a part of it; the index has a sha256 of ours.
        response_checksum_validation="when_required",
    )
    try:
        return boto3.session.Session().client("s3", config=config)
    except ValueError as err:  # its text has the URL
        if isinstance(err, BotoCoreError):
            raise
        raise DataError("AWS_ENDPOINT_URL must be a URL such as https://HOST:PORT; correct it") from None


def _transfer() -> Any:
    """Classic transfers: the CRT client ignores a custom endpoint. Eight threads, since loaders fetch side by side."""
    from boto3.s3.transfer import TransferConfig  # noqa: PLC0415

    return TransferConfig(
        multipart_threshold=2**24, multipart_chunksize=2**24, max_concurrency=8, preferred_transfer_client="classic"
    )
