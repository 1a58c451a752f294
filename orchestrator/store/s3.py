"""A Store in a bucket of S3, or of a server that speaks its protocol. Credentials: boto3's standard chain alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3
from boto3.exceptions import S3UploadFailedError
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from orchestrator.errors import StoreError

MAX_ATTEMPTS = 5
"""Tries at a request, with waits of up to 1, 2, 4 and 8 s between them: a server that is gone is told in seconds."""
CONFLICT_TRIES = 5
"""Of a create that meets another one under way; S3 asks to try again."""
CONFLICT_WAIT_S = 0.2

_MISSING = frozenset({"404", "NoSuchKey"})
_HINTS = {
    "NoSuchBucket": "create the bucket, or give another one by `store:` in the job or --store",
    "403": "the credentials found by AWS's standard chain may not do that",
    "AccessDenied": "the credentials found by AWS's standard chain may not do that",
    "InvalidAccessKeyId": "the server does not know the credentials found by AWS's standard chain",
    "SignatureDoesNotMatch": "the secret found by AWS's standard chain is wrong for its key",
}
_NO_CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or a role of the machine"
_OUT_OF_REACH = "check the network and AWS_ENDPOINT_URL"


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
                content: bytes = self._client.get_object(**self._object(name))["Body"].read()
            except ClientError as err:
                if _code(err) in _MISSING:
                    return None
                raise
            return content

    def write(self, name: str, content: bytes) -> None:
        with self._errors("write", name):
            self._client.put_object(**self._object(name), Body=content)

    def create(self, name: str, content: bytes) -> bool:
        with self._errors("write", name):
            for _ in range(CONFLICT_TRIES):
                try:
                    self._client.put_object(**self._object(name), Body=content, IfNoneMatch="*")
                except ClientError as err:
                    if _code(err) == "PreconditionFailed":
                        return False
                    if _code(err) != "ConditionalRequestConflict":
                        raise
                    time.sleep(CONFLICT_WAIT_S)
                else:
                    return True
        raise StoreError(f"store {self.uri}: cannot write {name}: others went on writing it; run again")

    def upload(self, name: str, path: Path) -> None:
        with self._errors("write", name):
            self._client.upload_file(str(path), **self._object(name), Config=_TRANSFER)

    def download(self, name: str, path: Path) -> bool:
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._errors("read", name):
            try:
                self._client.download_file(**self._object(name), Filename=str(path), Config=_TRANSFER)
            except ClientError as err:
                if _code(err) in _MISSING:
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

    def storage_uri(self, name: str) -> str:
        return f"s3://{self._bucket}/{self._prefix}{name}"

    @cached_property
    def _client(self) -> Any:
        config = Config(
            retries={"mode": "standard", "max_attempts": MAX_ATTEMPTS},
            connect_timeout=10,
            # A server may send the whole object's checksum with a part of it; every read has a sha256 of ours.
            response_checksum_validation="when_required",
        )
        return boto3.session.Session().client("s3", config=config)

    def _object(self, name: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + name}

    @contextmanager
    def _errors(self, verb: str, name: str) -> Iterator[None]:
        try:
            yield
        except (BotoCoreError, ClientError, S3UploadFailedError) as err:
            reason, hint = _explained(err)
            raise StoreError(f"store {self.uri}: cannot {verb} {name}: {reason}; {hint}") from err


# Classic transfers: the CRT client ignores a custom endpoint and would talk to AWS itself.
_TRANSFER = TransferConfig(
    multipart_threshold=2**24, multipart_chunksize=2**24, max_concurrency=16, preferred_transfer_client="classic"
)


def _code(err: ClientError) -> str:
    return str(err.response.get("Error", {}).get("Code", ""))


def _explained(err: BotoCoreError | ClientError | S3UploadFailedError) -> tuple[str, str]:
    """What went wrong, and what to do about it. An upload's error stands behind the one that wraps it."""
    cause = err.__context__ if isinstance(err, S3UploadFailedError) else err
    if isinstance(cause, ClientError):
        message = cause.response.get("Error", {}).get("Message") or _code(cause)
        return message.rstrip("."), _HINTS.get(_code(cause), _OUT_OF_REACH)
    return str(cause or err).rstrip("."), _NO_CREDENTIALS if isinstance(cause, NoCredentialsError) else _OUT_OF_REACH
