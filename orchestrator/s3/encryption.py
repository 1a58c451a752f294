"""Encryption by the server of all objects that this process writes.

It is set in the environment, which workers inherit or get with the driver's offer, and each client
adds it to its own requests. So no write can be forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

SSE, KMS_KEY = "ORCHESTRATOR_S3_SSE", "ORCHESTRATOR_S3_KMS_KEY"
_WRITES = ("PutObject", "CreateMultipartUpload")
"""The operations that create an object. The parts of a multipart upload are encrypted like it."""


def set_encryption(environ: MutableMapping[str, str], *, sse: str, kms_key: str | None) -> None:
    """Let the clients of this process, and of the processes that it starts, encrypt what they
    write."""
    environ[SSE] = sse
    environ.pop(KMS_KEY, None)
    if kms_key is not None:
        environ[KMS_KEY] = kms_key


def encryption_in(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the arguments of a write for boto3. Empty if no encryption is set: the bucket's own
    default applies."""
    sse, kms_key = environ.get(SSE), environ.get(KMS_KEY)
    if not sse:
        return {}
    return {"ServerSideEncryption": sse, **({"SSEKMSKeyId": kms_key} if kms_key else {})}


def encrypt_writes(client: Any, environ: Mapping[str, str]) -> None:
    """Add the encryption to each write of a client of boto3."""
    arguments = encryption_in(environ)
    if not arguments:
        return

    def add(params: dict[str, Any], **_: Any) -> None:
        params |= arguments

    for operation in _WRITES:
        client.meta.events.register(f"provide-client-params.s3.{operation}", add)
