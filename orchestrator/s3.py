"""What the store and data in S3 have in common: the client, transfers, and what an error means.

Credentials: boto3's standard chain alone; nothing of them is shown. boto3 takes half a second to import, for which only
those pay who use it.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

MAX_ATTEMPTS = 5
"""Tries at a request, with waits of up to 1, 2, 4 and 8 s between them: a server that is gone is told in seconds."""

MISSING = frozenset({"404", "NoSuchKey"})
"""Codes of a server that knows no such object."""

_PART_BYTES = 2**24
_HINTS = {
    "403": "the credentials found by AWS's standard chain may not do that",
    "AccessDenied": "the credentials found by AWS's standard chain may not do that",
    "InvalidAccessKeyId": "the server does not know the credentials found by AWS's standard chain",
    "SignatureDoesNotMatch": "the secret found by AWS's standard chain is wrong for its key",
}
_NO_CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or a role of the machine"
_OUT_OF_REACH = "check the network and AWS_ENDPOINT_URL"
_USERINFO = re.compile(r"//[^/?#\s\"]*@")
"""What stands before the host in a URL such as `http://name:secret@host`."""


class EndpointError(Exception):
    """AWS_ENDPOINT_URL is no URL; its value, which may hold a secret, is not told."""


class Failure(NamedTuple):
    """What an error of S3 means."""

    reason: str
    hint: str
    """What to do about it."""
    code: str
    """The server's; empty where it did not answer."""
    is_lasting: bool
    """Whether another try cannot help."""
    behind: BaseException | None
    """The error itself, to be shown where a traceback is; None where it holds a secret."""

    def __str__(self) -> str:
        return f"{self.reason}; {self.hint}"


def new_client(*, max_connections: int) -> Any:
    """For so many threads. Raises EndpointError, besides errors of boto3."""
    import boto3  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415

    config = Config(
        retries={"mode": "standard", "max_attempts": MAX_ATTEMPTS},
        connect_timeout=10,
        max_pool_connections=max_connections,
        # A server may send the whole object's checksum with a part of it; all that is read has a sha256 of ours.
        response_checksum_validation="when_required",
    )
    try:
        return boto3.session.Session().client("s3", config=config)
    except ValueError as err:  # its text has the URL
        if isinstance(err, BotoCoreError):
            raise
        raise EndpointError from None


def transfers(*, num_threads: int) -> Any:
    """Settings of classic transfers: the CRT client ignores a custom endpoint and would talk to AWS itself."""
    from boto3.s3.transfer import TransferConfig  # noqa: PLC0415

    return TransferConfig(
        multipart_threshold=_PART_BYTES,
        multipart_chunksize=_PART_BYTES,
        max_concurrency=num_threads,
        preferred_transfer_client="classic",
    )


def errors() -> tuple[type[Exception], ...]:
    """All that `explain` knows."""
    from boto3.exceptions import S3UploadFailedError  # noqa: PLC0415
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    return BotoCoreError, ClientError, S3UploadFailedError, EndpointError


def code_of(err: Exception) -> str:
    """The server's code of an error; empty where it did not answer."""
    return str(getattr(err, "response", {}).get("Error", {}).get("Code", ""))


def explain(err: Exception, *, no_bucket: str) -> Failure:
    """What one of `errors` means; `no_bucket` says what to do about a bucket that is not there."""
    from boto3.exceptions import S3UploadFailedError  # noqa: PLC0415
    from botocore.exceptions import ClientError, NoCredentialsError  # noqa: PLC0415

    if isinstance(err, EndpointError):
        reason = "AWS_ENDPOINT_URL must be a URL such as https://HOST:PORT"
        return Failure(reason, "correct it", "", is_lasting=True, behind=None)
    # An upload's error stands behind the one that wraps it.
    cause = err.__context__ if isinstance(err, S3UploadFailedError) else err
    if isinstance(cause, NoCredentialsError):
        return Failure("no credentials for S3", _NO_CREDENTIALS, "", is_lasting=True, behind=err)
    if isinstance(cause, ClientError):
        return _refusal(cause, {**_HINTS, "NoSuchBucket": no_bucket}, err)
    text = str(cause or err)
    shown = _USERINFO.sub("//", text)
    behind = err if shown == text else None
    return Failure(shown.rstrip("."), _OUT_OF_REACH, "", is_lasting=False, behind=behind)


def _refusal(cause: Any, hints: dict[str, str], err: Exception) -> Failure:
    """What the server answered."""
    code = code_of(cause)
    reason = str(cause.response.get("Error", {}).get("Message") or code).rstrip(".")
    return Failure(reason, hints.get(code, _OUT_OF_REACH), code, is_lasting=code in hints, behind=err)
