"""What never changes is read from the store once."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from orchestrator.live.cache import CachedStore
from orchestrator.store import Store, open_store
from orchestrator.store.folder import FolderStore
from orchestrator.store.publish import blob_name

BATCH, RECORD, BLOB = "runs/r/events/000001.jsonl", "runs/r/run.json", "blobs/sha256/ab/abc"


@pytest.fixture
def cached(store_uri: str, tmp_path: Path) -> CachedStore:
    (tmp_path / "cache").mkdir()
    return CachedStore(open_store(store_uri), tmp_path / "cache")


def inner(cached: CachedStore) -> Store:
    return cached.store


def test_batches_and_manifests_are_read_once(cached: CachedStore) -> None:
    assert cached.read(BATCH) is None
    inner(cached).write(BATCH, b"events")
    assert cached.read(BATCH) == b"events"
    inner(cached).delete(BATCH)
    assert cached.read(BATCH) == b"events"


def test_memory_is_limited_and_keeps_what_was_read_last(cached: CachedStore) -> None:
    cached.max_bytes = 20
    names = [f"runs/r/events/{number:06d}.jsonl" for number in (1, 2, 3)]
    for name in names:
        inner(cached).write(name, b"ten bytes.")
    for name in (names[0], names[1], names[0], names[2]):
        cached.read(name)
    for name in names:
        inner(cached).delete(name)
    assert [cached.read(name) is not None for name in names] == [True, False, True]


def test_records_are_read_again(cached: CachedStore) -> None:
    for content in (b"1", b"2"):
        inner(cached).write(RECORD, content)
        assert cached.read(RECORD) == content


def test_blobs_are_downloaded_once(cached: CachedStore, tmp_path: Path) -> None:
    assert not cached.download(BLOB, tmp_path / "missing")
    inner(cached).write(BLOB, b"bytes")
    assert cached.download(BLOB, tmp_path / "one" / "file")
    inner(cached).delete(BLOB)
    assert cached.download(BLOB, tmp_path / "two" / "file")
    assert (tmp_path / "two" / "file").read_bytes() == b"bytes"


def test_nothing_is_written(cached: CachedStore) -> None:
    with pytest.raises(AssertionError, match="a page only reads the store"):
        cached.write("name", b"")


def test_damaged_blob_is_read_again_after_its_repair(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    store = FolderStore(tmp_path / "store")
    blob = blob_name(hashlib.sha256(b"whole").hexdigest())
    store.write(blob, b"WHOLE")
    cached = CachedStore(store, tmp_path / "kept")
    assert b"".join(cached.stream(blob, size=5) or ()) == b"WHOLE"
    store.write(blob, b"whole")
    assert b"".join(cached.stream(blob, size=5) or ()) == b"whole"
    store.delete(blob)
    assert b"".join(cached.stream(blob, size=5) or ()) == b"whole"  # kept
