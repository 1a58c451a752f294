"""A machine fetches an input once. Every worker gets exactly the published bytes."""

from __future__ import annotations

import errno
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from orchestrator.artifact import Artifact
from orchestrator.store.folder import FolderStore
from orchestrator.store.input_cache import InputCache
from orchestrator.store.publish import fetch_artifact, publish_artifact

GIB = 2**30


class RemoteStore(FolderStore):
    """A store that counts its reads in a file, by any process, as if it were in S3."""

    @property
    def uri(self) -> str:
        return f"s3://bucket{super().uri}"

    @property
    def log(self) -> Path:
        return self._root / "reads"

    def stream(self, name: str, *, size: int) -> Iterator[bytes] | None:
        with self.log.open("a") as log:
            log.write(f"{name}\n")
        return super().stream(name, size=size)

    def num_reads(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0


@pytest.fixture
def store(tmp_path: Path) -> RemoteStore:
    return RemoteStore(tmp_path / "store")


@pytest.fixture
def artifact(store: RemoteStore, tmp_path: Path) -> Artifact:
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "model.bin").write_bytes(b"weights")
    return publish_artifact(store, tmp_path / "output")


@pytest.fixture
def cache(tmp_path: Path) -> InputCache:
    return InputCache(tmp_path / "caches", GIB)


def _fetch(store: RemoteStore, artifact: Artifact, folder: Path, cache: InputCache) -> bytes:
    fetched = fetch_artifact(store, artifact, folder, cache=cache)
    return (fetched / "model.bin").read_bytes()


def test_second_worker_reads_from_the_cache(
    store: RemoteStore, artifact: Artifact, cache: InputCache, tmp_path: Path
) -> None:
    for name in ("first", "second"):
        assert _fetch(store, artifact, tmp_path / name, cache) == b"weights"
    assert store.num_reads() == 1
    assert (tmp_path / "first" / "model.bin").samefile(tmp_path / "second" / "model.bin")


def test_workers_that_start_together_fetch_once(
    store: RemoteStore, artifact: Artifact, cache: InputCache, tmp_path: Path
) -> None:
    context = multiprocessing.get_context("fork")
    workers = [
        context.Process(target=_fetch, args=(store, artifact, tmp_path / str(number), cache))
        for number in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert store.num_reads() == 1


@pytest.mark.parametrize("content", [b"WEIGHTS", b"wei"])
def test_changed_file_of_the_cache_is_fetched_again(
    store: RemoteStore, artifact: Artifact, cache: InputCache, tmp_path: Path, content: bytes
) -> None:
    assert _fetch(store, artifact, tmp_path / "first", cache) == b"weights"
    (kept,) = (tmp_path / "caches" / "inputs").iterdir()
    kept.chmod(0o644)
    kept.write_bytes(content)
    assert _fetch(store, artifact, tmp_path / "second", cache) == b"weights"
    assert store.num_reads() == 2


def test_inputs_over_the_limit_are_evicted(
    store: RemoteStore, artifact: Artifact, tmp_path: Path
) -> None:
    cache = InputCache(tmp_path / "caches", 1000.0)  # less than a block of the disk
    assert _fetch(store, artifact, tmp_path / "first", cache) == b"weights"
    (tmp_path / "first" / "model.bin").unlink()
    (tmp_path / "output" / "model.bin").write_bytes(b"others")
    other = publish_artifact(store, tmp_path / "output")
    assert _fetch(store, other, tmp_path / "second", cache) == b"others"
    kept = [path.name for path in (tmp_path / "caches" / "inputs").iterdir()]
    assert kept == [other.files[0].sha256]


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM])
def test_without_hard_links_a_worker_gets_a_copy(
    store: RemoteStore,
    artifact: Artifact,
    cache: InputCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    for name in ("first", "second"):
        assert _fetch(store, artifact, tmp_path / name, cache) == b"weights"
    assert store.num_reads() == 1


def test_cache_that_cannot_be_written_is_not_used(
    store: RemoteStore, artifact: Artifact, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    cache = InputCache(tmp_path / "file" / "caches", GIB)
    assert _fetch(store, artifact, tmp_path / "first", cache) == b"weights"


def test_store_on_the_same_disk_is_not_cached(cache: InputCache, tmp_path: Path) -> None:
    assert not cache.is_worth_it(FolderStore(tmp_path / "store"))
    assert cache.is_worth_it(RemoteStore(tmp_path / "store"))
    assert not InputCache(tmp_path, 0).is_worth_it(RemoteStore(tmp_path / "store"))
