"""Uploads of files to S3 with a checksum of the whole object, which the server can report later.

S3 computes the sha256 of a whole object only for a single request; of an upload in parts only a CRC
is of the whole. So a large file is checked by its size and CRC32, next to the sha256 in its name.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.digests import Digests

COMPOSITE = "COMPOSITE"
"""The type of a checksum that was computed from the checksums of parts."""


class Stored(NamedTuple):
    """What the server reports about an object."""

    size: int
    age_s: float
    """Seconds since it was written, by the server's clock. Infinite if the answer has no times."""
    checksums: frozenset[str]
    """Those of the whole object that we can compare, in base64."""

    def matches(self, digests: Digests) -> bool | None:
        """Whether a checksum of the whole object is the one of `digests`. None if the server
        reports none, and the size is right."""
        if self.size != digests.size:
            return False
        return self.checksums <= _checksums(digests) if self.checksums else None


def upload(
    client: Any, path: Path, digests: Digests, request: dict[str, str], *, config: Any, checks: bool
) -> bool | None:
    """Upload a file and ask what the server now has: see `Stored.matches`. `checks`: send a
    checksum of the whole object, which the server compares and keeps."""
    if digests.size < config.multipart_threshold:
        # Computed before, so that botocore sends it as a header: not all servers accept a trailer.
        extra = {"ChecksumAlgorithm": "SHA256", "ChecksumSHA256": _sha256(digests)}
        content = path.read_bytes()  # at most a part
        answer = client.put_object(**request, Body=content, **(extra if checks else {}))
        if "ChecksumSHA256" in answer:
            return bool(answer["ChecksumSHA256"] == _sha256(digests))
        # Without encryption by a key of its own, S3's ETag of one request is the MD5. Comparing it
        # saves a second request, which takes as long as the upload of a small file.
        if answer.get("ETag", "").strip('"') == _md5(content):
            return True
    else:
        extra = {"ChecksumCRC32": _crc32(digests)}
        client.upload_file(str(path), **request, Config=config, ExtraArgs=extra if checks else {})
    return look_up(client, request, checks=checks).matches(digests)


def look_up(client: Any, request: dict[str, str], *, checks: bool) -> Stored:
    """Ask the server about an object. Raises boto3's errors."""
    answer = client.head_object(**request, **({"ChecksumMode": "ENABLED"} if checks else {}))
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


def age_s(answer: Any, written: datetime | None) -> float:
    """Seconds from `written` to an answer of the server, by the server's clock. Infinite if either
    time is unknown."""
    now_s = server_time_s(answer)
    if now_s is None or written is None:
        return float("inf")
    return max(0.0, now_s - written.timestamp())


def server_time_s(answer: Any) -> float | None:
    """The server's clock when it sent an answer, in seconds since the epoch. None if it sent no
    time."""
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    if date is None:
        return None
    return parsedate_to_datetime(date).replace(tzinfo=UTC).timestamp()  # HTTP has no other zone


def _checksums(digests: Digests) -> frozenset[str]:
    return frozenset({_sha256(digests), _crc32(digests)})


def _sha256(digests: Digests) -> str:
    return b64encode(bytes.fromhex(digests.sha256)).decode()


def _crc32(digests: Digests) -> str:
    return b64encode(digests.crc32.to_bytes(4, "big")).decode()
