"""Shards from S3 on a machine's disk: fetched once for all its processes, checked, evicted, never
visible in part."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.errors import DataError
from pipelines.imagenet.layouts import open_images
from pipelines.imagenet.shard.cache import ShardCache
from pipelines.imagenet.shard.index import INDEX_NAME, Shard, parse_index
from pipelines.imagenet.shard.location import BucketLocation
from tests.pipelines.imagenet.shard.conftest import ShardSummary


class CountedPlace(BucketLocation):
    """Records each fetch, by any process, in a file."""

    def __init__(self, uri: str, log: Path) -> None:
        super().__init__(uri)
        self.log = log
        log.touch()

    @property
    def fetched(self) -> list[str]:
        return self.log.read_text().split()

    def fetch(self, name: str, path: Path) -> None:
        with self.log.open("a") as log:
            log.write(f"{name}\n")
        super().fetch(name, path)


@pytest.fixture
def remote(write: ShardSummary, bucket: str, tmp_path: Path) -> CountedPlace:
    return CountedPlace(write(f"s3://{bucket}/image/net"), tmp_path / "fetched")


@pytest.fixture
def shards(remote: CountedPlace) -> tuple[Shard, ...]:
    content = remote.read(INDEX_NAME)
    assert content is not None
    return parse_index(content, remote.uri).shards["train"]


def make_cache(tmp_path: Path, *, limit_bytes: int = 2**30) -> ShardCache:
    return ShardCache(tmp_path / "cache", limit_bytes)


def content_of(descriptor: int) -> bytes:
    try:
        return os.pread(descriptor, 2**20, 0)
    finally:
        os.close(descriptor)


def test_processes_that_start_together_fetch_each_shard_once(
    remote: CountedPlace, shards: tuple[Shard, ...], tmp_path: Path
) -> None:
    cache = make_cache(tmp_path)
    remote.read(INDEX_NAME)  # a client made before the fork is not used after it
    context = multiprocessing.get_context("fork")
    contents: multiprocessing.SimpleQueue[list[bytes]] = context.SimpleQueue()

    def work() -> None:
        contents.put([content_of(cache.open(remote, shard))[:600] for shard in shards[:3]])

    processes = [context.Process(target=work) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    got = [contents.get() for _ in processes]  # a pipe holds them: 2 KB each
    assert all(one == got[0] for one in got)
    assert sorted(remote.fetched) == [shard.name for shard in shards[:3]]


def test_least_recently_used_shard_is_evicted(
    remote: CountedPlace, shards: tuple[Shard, ...], tmp_path: Path
) -> None:
    cache = make_cache(tmp_path, limit_bytes=3 * shards[0].size)
    for number in (0, 1, 2):
        os.close(cache.open(remote, shards[number]))
    for when, path in enumerate(
        sorted((tmp_path / "cache").glob("*.tar"), key=lambda path: path.stat().st_mtime_ns)
    ):
        os.utime(path, (when, when))
    os.close(cache.open(remote, shards[0]))
    held = cache.open(remote, shards[1])
    os.close(cache.open(remote, shards[3]))  # evicts 2
    os.close(cache.open(remote, shards[4]))  # evicts 0
    os.close(cache.open(remote, shards[5]))  # evicts 1
    assert remote.fetched == [shards[number].name for number in (0, 1, 2, 3, 4, 5)]
    assert (
        sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.tar")) == cache.limit_bytes
    )
    assert len(content_of(held)) == shards[1].size  # a process that has it open can still read it
    os.close(cache.open(remote, shards[1]))
    assert remote.fetched[-1] == shards[1].name


def test_only_leftovers_of_a_killed_fetch_are_evicted(
    remote: CountedPlace, shards: tuple[Shard, ...], tmp_path: Path
) -> None:
    cache = make_cache(tmp_path, limit_bytes=shards[0].size)
    (tmp_path / "cache").mkdir()
    for name in ("killed", "busy"):
        (tmp_path / f"cache/{name}.partial").write_bytes(bytes(1000))
    with (tmp_path / "cache/busy.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.close(cache.open(remote, shards[0]))
    assert {path.name for path in (tmp_path / "cache").glob("*.partial")} == {"busy.partial"}


def test_truncated_file_is_fetched_again(
    remote: CountedPlace, shards: tuple[Shard, ...], tmp_path: Path
) -> None:
    cache = make_cache(tmp_path)
    whole = content_of(cache.open(remote, shards[0]))
    (kept,) = (tmp_path / "cache").glob("*.tar")
    kept.write_bytes(whole[:100])
    assert content_of(cache.open(remote, shards[0])) == whole
    assert len(remote.fetched) == 2


def test_shard_with_other_bytes_than_the_index_is_refused(
    remote: CountedPlace, shards: tuple[Shard, ...], tmp_path: Path
) -> None:
    wrong = replace(shards[0], sha256="0" * 64)
    with pytest.raises(
        DataError,
        match=r"train-000000\.tar: the shard differs from its description in the index; copy",
    ):
        make_cache(tmp_path).open(remote, wrong)
    assert len(remote.fetched) == 2  # a transfer may go wrong once
    assert not list((tmp_path / "cache").glob("*.partial"))


def test_shard_of_another_size_is_refused(
    remote: CountedPlace, shards: tuple[Shard, ...], tmp_path: Path
) -> None:
    wrong = replace(shards[0], size=shards[0].size + 1, sha256=None)
    with pytest.raises(
        DataError, match=r"train-000000\.tar: the shard differs from its description in the index"
    ):
        make_cache(tmp_path).open(remote, wrong)


def test_missing_shard_is_reported(
    remote: CountedPlace, shards: tuple[Shard, ...], tmp_path: Path
) -> None:
    remote.delete(shards[0].name)
    with pytest.raises(
        DataError, match=r"image/net/train-000000\.tar: missing; copy it there again"
    ):
        make_cache(tmp_path).open(remote, shards[0])


def test_unwritable_cache_is_named(
    remote: CountedPlace, shards: tuple[Shard, ...], tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(
        DataError,
        match=r"cache: cannot store shards here: File exists; lower cache_gib, or set XDG_",
    ):
        make_cache(tmp_path).open(remote, shards[0])


def test_cache_too_small_for_a_shuffle_is_refused(remote: CountedPlace) -> None:
    images = open_images(remote.uri, cache_gib=0.0001)
    with pytest.raises(
        DataError, match=r"cache_gib = 0\.0001 is too small for the 16 shards \(0\.000153 GiB\)"
    ):
        images.source("train", ("even", "odd"))
