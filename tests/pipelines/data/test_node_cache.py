"""Data sets from S3 on a machine's disk: fetched once for all its processes, never visible in part;
changes are detected."""

from __future__ import annotations

import errno
import math
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator import cache_room
from orchestrator.contract import Event
from orchestrator.errors import DataError, StoppedError, UnreachableError
from orchestrator.s3 import client
from orchestrator.s3.bucket import Object
from pipelines.data import download, node_cache
from pipelines.data.folder import data_folder, fingerprint_remote, stage_data_folder
from pipelines.data.listing import list_remote
from pipelines.data.s3 import DataBucket
from pipelines.detection.annotations.coco import fingerprint, fingerprint_val, read_annotations
from pipelines.detection.params import DetectionParams
from tests.conftest import make_bucket
from tests.pipelines.data.buckets import fetch_again, files_below, put, upload

SPLITS = ("train", "val")


def test_tree_is_fetched_completely_and_once(
    coco: Path,
    bucket: str,
    caches: Path,
    fetched: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uri = upload(coco, bucket)
    monkeypatch.setattr(download, "TELL_EVERY_S", math.inf)
    put(bucket, "train2017/", b"")  # folders as S3 consoles make them
    told: list[str] = []
    root = data_folder(uri, "coco", *SPLITS, report_progress=told.append)
    assert files_below(root) == files_below(coco)
    assert told == [f"fetching {uri}: 7 of 7 objects, 0.00 GiB"]
    assert len(fetched()) == 7
    assert fetch_again(uri, *SPLITS) == root
    assert len(fetched()) == 7
    assert fetch_again(uri, "val") != root  # hard links to the same files
    assert len(fetched()) == 7
    assert data_folder(f"{uri}", "coco", "val") == data_folder(uri, "coco", "val")


def _refuse(*_: object, **__: object) -> None:
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


def test_symbolic_links_are_used_without_hard_links(
    coco: Path, bucket: str, caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", _refuse)
    root = data_folder(upload(coco, bucket), "coco", *SPLITS)
    assert files_below(root) == files_below(coco)
    assert len(read_annotations(root, "train").image_paths) == 3


def test_disk_without_links_is_refused_before_fetching(
    coco: Path,
    bucket: str,
    caches: Path,
    fetched: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "link", _refuse)
    monkeypatch.setattr(os, "symlink", _refuse)
    with pytest.raises(
        DataError,
        match=r"cannot store the data set here: Operation not supported; .* XDG_CACHE_HOME",
    ):
        data_folder(upload(coco, bucket), "coco", *SPLITS)
    assert fetched() == []


def test_evaluation_fetches_only_val(
    coco: Path, bucket: str, caches: Path, fetched: Callable[[], list[str]]
) -> None:
    root = data_folder(upload(coco, bucket), "coco", "val")
    assert sorted(files_below(root)) == [
        "annotations/instances_val2017.json",
        "val2017/000.png",
        "val2017/001.png",
    ]
    assert len(read_annotations(root, "val").image_paths) == 2
    assert not [name for name in fetched() if "train" in name]


def test_processes_that_start_together_fetch_each_object_once(
    coco: Path, bucket: str, caches: Path, fetched: Callable[[], list[str]]
) -> None:
    uri, context = upload(coco, bucket), multiprocessing.get_context("fork")
    folders: multiprocessing.SimpleQueue[str] = context.SimpleQueue()
    workers = [
        context.Process(target=lambda: folders.put(str(data_folder(uri, "coco"))), daemon=True)
        for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=600)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert len({folders.get() for _ in workers}) == 1  # each process puts its result before it ends
    assert len(fetched()) == len(set(fetched())) == 7


def test_killed_fetch_resumes_and_shows_no_partial_data(
    coco: Path,
    bucket: str,
    caches: Path,
    fetched: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (coco / "val2017/000.png").write_bytes(os.urandom(40_000))
    uri = upload(coco, bucket)
    monkeypatch.setattr(download, "PART_BYTES", 4096)
    monkeypatch.setattr(download, "THREADS", 1)
    fast, large = DataBucket.read_part, "val2017/000.png@"
    forking = multiprocessing.get_context("fork")
    has_written_five = forking.Event()

    def slow(bucket: DataBucket, one: Object, start: int, size: int) -> bytes:
        if one.name == "val2017/000.png" and start == 5 * 4096:
            has_written_five.set()
            time.sleep(600)
        return fast(bucket, one, start, size)

    with monkeypatch.context() as slowly:
        slowly.setattr(DataBucket, "read_part", slow)
        process = forking.Process(target=data_folder, args=(uri, "coco", "val"))
        process.start()
        assert has_written_five.wait(600)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    assert not list(caches.glob("*/trees/*"))
    sizes = {path.stat().st_size for path in caches.glob("*/objects/*/*") if not path.suffix}
    assert 40_000 not in sizes
    before = fetched()
    root = data_folder(uri, "coco", "val")
    assert files_below(root)["val2017/000.png"] == (coco / "val2017/000.png").read_bytes()
    again = set(fetched()[len(before) :]) & {name for name in before if name.startswith(large)}
    assert len(again) <= 1  # the part that was being fetched
    assert not list(caches.glob("*/objects/*/*.*"))


def test_next_run_completes_a_stopped_fetch(
    coco: Path,
    bucket: str,
    caches: Path,
    fetched: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uri = upload(coco, bucket)
    monkeypatch.setattr(download, "THREADS", 1)
    monkeypatch.setattr(download, "TELL_EVERY_S", 0)
    told: list[str] = []
    is_told, fast = threading.Event(), DataBucket.read_part

    def slow(bucket: DataBucket, one: Object, start: int, size: int) -> bytes:
        """Returns the first at once; each of the others takes half a second after the stage
        received the event for the first."""
        if fetched():
            is_told.wait(60)
            time.sleep(0.5)
        return fast(bucket, one, start, size)

    def emit(event: Event) -> None:
        told.append(event.text)
        if len(told) == 2:
            is_told.set()

    context: Any = SimpleNamespace(
        params=SimpleNamespace(data=uri), emit=emit, should_stop=lambda: len(told) == 2
    )
    with monkeypatch.context() as slowly:
        slowly.setattr(DataBucket, "read_part", slow)
        with pytest.raises(
            StoppedError, match="stopped while fetching its data; the fetched part stays"
        ):
            stage_data_folder(context, "coco", *SPLITS)
    assert told[1].startswith(f"fetching {uri}: ")
    before = len(fetched())
    assert before < 7
    told.clear()
    context.should_stop = lambda: False
    assert files_below(stage_data_folder(context, "coco", *SPLITS)) == files_below(coco)
    assert told[0] == f"fetching {uri}: {7 - before} of 7 objects, 0.00 GiB"
    assert len(fetched()) == 7


def test_only_a_changed_object_is_fetched_again(
    coco: Path, bucket: str, caches: Path, fetched: Callable[[], list[str]]
) -> None:
    uri = upload(coco, bucket)
    before, root = fingerprint_remote(uri, "coco", *SPLITS), data_folder(uri, "coco")
    put(bucket, "val2017/000.png", (coco / "val2017/001.png").read_bytes())
    assert data_folder(uri, "coco") == root  # a stage reads the data as they were when it began
    assert fingerprint_remote(uri, "coco", *SPLITS) != before
    changed = fetch_again(uri)
    assert files_below(changed)["val2017/000.png"] == (coco / "val2017/001.png").read_bytes()
    assert files_below(root)["val2017/000.png"] == (coco / "val2017/000.png").read_bytes()
    assert fetched()[7:] == ["val2017/000.png@0"]


def test_object_replaced_during_the_download_is_refused(
    coco: Path, bucket: str, caches: Path
) -> None:
    listing = list_remote(upload(coco, bucket), "coco", SPLITS)
    put(bucket, "val2017/000.png", b"other")
    with pytest.raises(
        DataError, match=r"coco/val2017/000\.png: was replaced during the download; run again"
    ):
        node_cache.fetch(listing, caches, lambda _: None)


def test_fingerprint_is_a_listing_of_the_needed_objects(
    coco: Path, bucket: str, caches: Path, fetched: Callable[[], list[str]]
) -> None:
    params = DetectionParams(method="fcos", backbone="p.checkpoint", data=upload(coco, bucket))
    whole, val = fingerprint(params), fingerprint_val(params)
    put(bucket, "train2017/000.png", b"another")
    assert fingerprint(params) != whole
    assert fingerprint_val(params) == val
    assert not fetched()
    assert not caches.exists()


def test_full_disk_is_reported_before_fetching(
    coco: Path,
    bucket: str,
    caches: Path,
    fetched: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1))
    with pytest.raises(
        DataError,
        match=r"cannot store the data set here: .* GiB are needed, 9.31e-10 GiB are free; free",
    ):
        data_folder(upload(coco, bucket), "coco")
    assert not fetched()


def test_fetch_resumes_after_the_disk_filled_up(
    coco: Path, bucket: str, caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    uri = upload(coco, bucket)
    with monkeypatch.context() as context:
        context.setattr(os, "pwrite", full)
        with pytest.raises(
            DataError,
            match="cannot store the data set here: No space left on device; free some space",
        ):
            data_folder(uri, "coco")
    assert files_below(data_folder(uri, "coco")) == files_below(coco)


def test_missing_data_are_named_with_the_searched_names(bucket: str) -> None:
    put(bucket, "val2017.zip", b"")
    with pytest.raises(DataError) as caught:
        fingerprint_remote(f"s3://{bucket}/sets/coco", "coco", *SPLITS)
    text = str(caught.value)
    assert "holds none of train2017/, train2017.zip, train2017.tar" in text
    assert "holds none of annotations/instances_val2017.json, annotations_trainval2017.zip" in text
    assert "val2017/" not in text


def test_unreachable_server_is_not_missing_data(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MAX_ATTEMPTS", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(UnreachableError, match="cannot list"):
        fingerprint_remote(f"s3://{bucket}/sets/coco", "coco", "val")


def test_unused_data_set_makes_room_for_the_next_one(
    coco: Path, bucket: str, caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CACHE_GIB", "0")
    monkeypatch.setattr(cache_room, "_held", {})
    first, second, third = (
        upload(coco, name) for name in (bucket, make_bucket("second"), make_bucket("third"))
    )
    held = data_folder(first, "coco")
    assert data_folder(second, "coco").is_dir()
    assert held.is_dir()  # this process reads it
    for home, descriptor in cache_room._held.items():
        if home in held.parents:
            os.close(descriptor)  # as if the process that reads it had ended
    folder = data_folder(third, "coco")
    assert not held.exists()
    assert sorted(folder.parents[1].parent.iterdir()) == sorted(
        [folder.parents[1], data_folder(second, "coco").parents[1]]
    )
