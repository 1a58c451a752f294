"""The sha256, CRC32 and size of bytes, from one pass over them.

The sha256 names and checks what the store holds. The CRC32 costs a third of that again at most, and
is the only checksum of a whole object that S3 computes for an upload in parts.
"""

from __future__ import annotations

import hashlib
import os
import time
import zlib
from pathlib import Path
from typing import NamedTuple

PIECE_BYTES = 2**20
"""Bytes that are read at a time."""
SETTLED_S = 2.0
"""A file changed within this time may change again in the same tick of the file system's clock."""
MAX_REMEMBERED = 10_000


class Digests(NamedTuple):
    """What identifies the bytes of a file."""

    sha256: str
    """64 hex digits."""
    crc32: int
    size: int
    """In bytes."""


class Digester:
    """Takes bytes in order, and has their Digests so far."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._crc32 = 0
        self._size = 0

    def update(self, piece: bytes | memoryview) -> None:
        self._sha256.update(piece)
        self._crc32 = zlib.crc32(piece, self._crc32)
        self._size += len(piece)

    @property
    def digests(self) -> Digests:
        return Digests(self._sha256.hexdigest(), self._crc32, self._size)


_Identity = tuple[int, int, int, int, int]
_remembered: dict[_Identity, Digests] = {}
"""The digests of files that this process has read. The identity of a file includes the times of its
last changes, of which a user can set only one back."""


def digest_file(path: Path, *, again: bool = False) -> Digests:
    """Return the Digests of a file. `again`: read it even if it has not changed since this process
    last read it."""
    began_s = time.time()
    with path.open("rb", buffering=0) as file:
        before = _identity(file.fileno())
        if not again and before in _remembered:
            return _remembered[before]
        digester = Digester()
        room = bytearray(PIECE_BYTES)
        while num_bytes := file.readinto(room):
            digester.update(memoryview(room)[:num_bytes])
        is_settled = max(before[3:]) < (began_s - SETTLED_S) * 1e9
        if is_settled and _identity(file.fileno()) == before:
            _remember(before, digester.digests)
    return digester.digests


def _identity(descriptor: int) -> _Identity:
    stat = os.fstat(descriptor)
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _remember(identity: _Identity, digests: Digests) -> None:
    if len(_remembered) >= MAX_REMEMBERED:
        _remembered.clear()
    _remembered[identity] = digests
