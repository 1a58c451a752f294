"""How far downloads from S3 read ahead, which is what they hold in memory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

from orchestrator.errors import IntegrityError
from orchestrator.store import s3
from orchestrator.store.s3 import LEAST_PARTS_AHEAD, PARTS_AHEAD, S3Store

PART = 1000
SIZE = 100 * PART


@pytest.fixture
def store(bucket: str, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    monkeypatch.setattr(s3, "PART_BYTES", PART)
    store = S3Store(f"s3://{bucket}/x")
    store.write("large", os.urandom(SIZE))
    return store


@pytest.fixture
def read(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The beginnings of the parts that were read so far."""
    read: list[int] = []
    read_part: Callable[[str, int, int], bytes | None] = store._read_part

    def observed(name: str, start: int, num_bytes: int) -> bytes | None:
        content = read_part(name, start, num_bytes)
        read.append(start)
        return content

    monkeypatch.setattr(store, "_read_part", observed)
    return read


def _await_reads(read: list[int], num: int) -> None:
    deadline_s = time.monotonic() + 60
    while len(read) < num and time.monotonic() < deadline_s:
        time.sleep(0.01)


def test_downloads_share_the_parts_that_a_process_reads_ahead(
    store: S3Store, read: list[int]
) -> None:
    streams = [store.stream("large", size=SIZE) for _ in range(4)]
    firsts = [next(stream) for stream in streams if stream is not None]
    most = sum(max(LEAST_PARTS_AHEAD, PARTS_AHEAD // num) for num in (1, 2, 3, 4))
    _await_reads(read, len(firsts) + most)
    assert len(read) == len(firsts) + most
    read.clear()
    next(streams[0])  # type: ignore[arg-type]  # it is more ahead than its share, now
    time.sleep(0.2)
    assert read == []


def test_download_has_all_parts_again_when_the_others_have_ended(
    store: S3Store, read: list[int]
) -> None:
    whole, left = store.stream("large", size=SIZE), store.stream("large", size=SIZE)
    assert whole is not None
    assert left is not None
    next(left)
    assert b"".join(whole) == store.read("large")
    _await_reads(read, 1 + PARTS_AHEAD + 100)
    read.clear()
    del left  # its consumer has given up
    third = store.stream("large", size=SIZE)
    assert third is not None
    next(third)
    _await_reads(read, 1 + PARTS_AHEAD)
    assert len(read) == 1 + PARTS_AHEAD


def test_object_that_is_replaced_during_its_download_is_refused(store: S3Store) -> None:
    stream = store.stream("large", size=SIZE)
    assert stream is not None
    next(stream)
    store.write("large", b"short")
    with pytest.raises(IntegrityError, match=r"^store s3://.*: large was replaced during the down"):
        b"".join(stream)


def test_object_of_another_size_is_refused(store: S3Store) -> None:
    with pytest.raises(IntegrityError, match=f"large has {SIZE} bytes instead of {SIZE - 1}$"):
        store.stream("large", size=SIZE - 1)
