"""Uploads of files to S3 with a checksum of the whole object, which the server can report later.

S3 computes the sha256 of a whole object only for a single request; of an upload in parts only a CRC
is of the whole. So a large file is checked by its size and CRC32, next to the sha256 in its name.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.digests import Digests, digest_file
from orchestrator.s3 import failures

COMPOSITE = "COMPOSITE"
"""The type of a checksum that was computed from the checksums of parts."""


class Checks(Enum):
    """The checksums that a server compares when it receives a file, and keeps."""

    WHOLE = "of the whole object"
    PARTS = "of each part, if it comes in parts"
    """MinIO before 2025 has no others for an upload in parts."""
    NONE = "none"
    """Older MinIO and Ceph refuse all."""

    def after(self, err: Exception) -> Checks | None:
        """What to try after an error; None if checksums are not the reason."""
        if self is Checks.WHOLE and failures.refuses_whole_checksum(err):
            return Checks.PARTS
        return Checks.NONE if self is not Checks.NONE and failures.may_refuse_header(err) else None


class Stored(NamedTuple):
    """What the server reports about an object."""

    size: int
    age_s: float | None
    """Seconds since it was written, by the server's clock. None if the answer has no times."""
    checksums: frozenset[str]
    """Those of the whole object that we can compare, in base64."""

    def matches(self, digests: Digests) -> bool | None:
        """Whether a checksum of the whole object is the one of `digests`. None if the server
        reports none, and the size is right."""
        if self.size != digests.size:
            return False
        return self.checksums <= _checksums(digests) if self.checksums else None


class ChangedError(Exception):
    """The file is no longer the one whose digests were computed."""


def upload(
    client: Any,
    path: Path,
    digests: Digests,
    request: dict[str, str],
    *,
    config: Any,
    checks: Checks,
) -> bool | None:
    """Upload a file with checksums, and ask what the server now has: see `Stored.matches`.

    Raises ChangedError for a file without these digests, and boto3's errors.
    """
    if digests.size < config.multipart_threshold:
        # Computed before, so that botocore sends it as a header: not all servers accept a trailer.
        extra = {"ChecksumAlgorithm": "SHA256", "ChecksumSHA256": _sha256(digests)}
        if checks is Checks.NONE:
            extra = {}
        content = path.read_bytes()  # at most a part
        # Not all servers compare a checksum, and the digests may be older than the file.
        if hashlib.sha256(content).hexdigest() != digests.sha256:
            raise ChangedError
        answer = client.put_object(**request, Body=content, **extra)
        if "ChecksumSHA256" in answer:
            return bool(answer["ChecksumSHA256"] == _sha256(digests))
        # Without encryption by a key of its own, S3's ETag of one request is the MD5. Comparing it
        # saves a second request, which takes as long as the upload of a small file.
        if answer.get("ETag", "").strip('"') == _md5(content):
            return True
    else:
        extra = {
            Checks.WHOLE: {"ChecksumCRC32": _crc32(digests)},
            Checks.PARTS: {"ChecksumAlgorithm": "CRC32"},
            Checks.NONE: {},
        }[checks]
        client.upload_file(str(path), **request, Config=config, ExtraArgs=extra)
        if checks is Checks.PARTS:  # then what it reports may be of parts, without saying so
            checks = Checks.NONE
    is_right = look_up(client, request, checks=checks).matches(digests)
    # The server cannot show that the parts were read from the file that had these digests.
    if is_right is None and digest_file(path, again=True) != digests:
        raise ChangedError
    return is_right


def look_up(client: Any, request: dict[str, str], *, checks: Checks) -> Stored:
    """Ask the server about an object. Raises boto3's errors."""
    mode = {} if checks is Checks.NONE else {"ChecksumMode": "ENABLED"}
    answer = client.head_object(**request, **mode)
    is_whole = answer.get("ChecksumType") != COMPOSITE
    stated = {answer.get("ChecksumSHA256"), answer.get("ChecksumCRC32")} if is_whole else set()
    return Stored(
        size=answer["ContentLength"],
        age_s=age_s(answer, answer.get("LastModified")),
        # Servers that do not report the type mark a composite checksum with the number of parts.
        checksums=frozenset(text for text in stated if text and "-" not in text),
    )


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def age_s(answer: Any, written: datetime | None) -> float | None:
    """Seconds from `written` to an answer of the server, by the server's clock. None if either time
    is unknown."""
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    if date is None or written is None:
        return None
    now = parsedate_to_datetime(date).replace(tzinfo=UTC)  # HTTP has no other zone
    return max(0.0, (now - written).total_seconds())


def _checksums(digests: Digests) -> frozenset[str]:
    return frozenset({_sha256(digests), _crc32(digests)})


def _sha256(digests: Digests) -> str:
    return b64encode(bytes.fromhex(digests.sha256)).decode()


def _crc32(digests: Digests) -> str:
    return b64encode(digests.crc32.to_bytes(4, "big")).decode()
