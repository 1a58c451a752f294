"""The contract of every store. Add each new store to the fixture `store_uri`."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest

from orchestrator.errors import StoreError
from orchestrator.store import Store, open_store
from tests.s3_front import Answer, front, refusal


@pytest.fixture
def store(store_uri: str) -> Store:
    return open_store(store_uri)


def test_written_content_is_read_back(store: Store) -> None:
    store.write("jobs/a/latest.json", b"1")
    store.write("jobs/a/latest.json", b"2")
    assert store.read("jobs/a/latest.json") == b"2"
    assert store.read("jobs/b/latest.json") is None


def test_create_does_not_replace_existing_content(store: Store) -> None:
    assert store.create("manifests/k.json", b"first")
    assert not store.create("manifests/k.json", b"second")
    assert store.read("manifests/k.json") == b"first"


def _create(uri: str, content: bytes, wins: multiprocessing.SimpleQueue[bool]) -> None:
    wins.put(open_store(uri).create("manifests/raced.json", content))


@pytest.mark.usefixtures("for_several_runs")
def test_exactly_one_of_many_creating_processes_wins(store: Store) -> None:
    context = multiprocessing.get_context("fork")
    wins: multiprocessing.SimpleQueue[bool] = context.SimpleQueue()
    racers = [context.Process(target=_create, args=(store.uri, b"%d" % n, wins)) for n in range(8)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert [racer.exitcode for racer in racers] == [0] * 8
    assert sorted(wins.get() for _ in racers) == [False] * 7 + [True]


def test_uploaded_file_can_be_downloaded(store: Store, tmp_path: Path) -> None:
    (tmp_path / "up").write_bytes(b"weights")
    store.upload("blobs/x", tmp_path / "up")
    assert store.download("blobs/x", tmp_path / "deep" / "down")
    assert (tmp_path / "deep" / "down").read_bytes() == b"weights"
    assert not store.download("blobs/y", tmp_path / "none")


def test_names_lists_only_files_below_a_folder(store: Store) -> None:
    for name in ("train/k/b/2", "train/k/a", "train/other"):
        store.write(name, b"")
    assert store.names("train/k") == ["train/k/a", "train/k/b/2"]
    store.delete("train/k/a")
    store.delete("train/k/a")
    assert store.names("train/k") == ["train/k/b/2"]
    assert store.names("nothing") == []


def test_entries_have_sizes_and_ages_by_the_clock_of_the_store(store: Store) -> None:
    store.write("train/k/a", b"12345")
    store.write("train/k/b/2", b"")
    store.write("train/other", b"1")
    entries = {entry.name: entry for entry in store.entries("train/k")}
    assert {name: entry.size for name, entry in entries.items()} == {
        "train/k/a": 5,
        "train/k/b/2": 0,
    }
    assert all(0 <= entry.age_s < 600 for entry in entries.values())
    assert list(store.entries("nothing")) == []


def test_folders_lists_only_the_folders_directly_below(store: Store) -> None:
    for name in ("runs/b/run.json", "runs/a/events/1", "runs/a/events/2", "runs/file", "runs2/c/d"):
        store.write(name, b"")
    assert store.folders("runs") == ["a", "b"]
    assert store.folders("runs/a") == ["events"]
    assert store.folders("runs/b") == store.folders("runs/file") == store.folders("none") == []
    store.delete("runs/b/run.json")
    assert store.folders("runs") == ["a"]


def test_more_folders_than_a_page_of_s3_are_all_listed(store: Store) -> None:
    names = [f"{number:04d}" for number in range(1003)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: store.write(f"runs/{name}/run.json", b""), names))
    assert store.folders("runs") == names


def test_many_names_are_deleted_and_others_stay(store: Store) -> None:
    names = [f"old/{number:04}" for number in range(1003)]
    for name in (names[0], names[-1], "new/0000"):
        store.write(name, b"x")
    assert store.delete_many(names, goes_on=lambda: True) == names
    assert [*store.names("old"), *store.names("new")] == ["new/0000"]


def test_no_deletion_begins_when_there_is_no_time_left(store: Store) -> None:
    store.write("a", b"x")
    assert store.delete_many(["a"], goes_on=lambda: False) == []
    assert store.read("a") == b"x"


def test_server_without_bulk_deletion_is_asked_for_each_object(s3_endpoint: str) -> None:
    def answer(method: str, path: str, headers: Mapping[str, str]) -> Answer | None:
        is_bulk = method == "POST" and path.endswith("delete")
        return refusal(400, "MissingContentMD5") if is_bulk else None

    boto3.client("s3").create_bucket(Bucket="bulk")
    with front(answer, behind=s3_endpoint) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", server.url)
        store = open_store("s3://bulk/x")
        for name in ("a", "b", "c"):
            store.write(name, b"x")
        assert store.delete_many(["a", "b"], goes_on=lambda: True) == ["a", "b"]
        assert store.read("a") is None
        assert store.read("c") == b"x"
        assert sum(method == "DELETE" for method, _ in server.requests) == 2


def _write_for_ever(uri: str) -> None:
    store = open_store(uri)
    while True:
        store.write("jobs/torn", os.urandom(1) * 2_000_000)


def test_killed_writer_leaves_a_complete_file(store: Store) -> None:
    for delay_s in (0.01, 0.03, 0.1):
        writer = multiprocessing.get_context("fork").Process(
            target=_write_for_ever, args=(store.uri,)
        )
        writer.start()
        while store.read("jobs/torn") is None:
            time.sleep(0.005)
        time.sleep(delay_s)
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        content = store.read("jobs/torn")
        assert content is not None
        assert len(content) == 2_000_000
        assert len(set(content)) == 1
    assert store.names("jobs") == ["jobs/torn"]


def test_file_in_several_parts_can_be_downloaded(store: Store, tmp_path: Path) -> None:
    content = os.urandom(2**20) * 40
    (tmp_path / "up").write_bytes(content)
    store.upload("blobs/large", tmp_path / "up")
    assert store.download("blobs/large", tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == content


def test_unwritable_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    store = open_store(str(tmp_path / "file"))
    with pytest.raises(StoreError, match=r"file: cannot write jobs/a: Not a directory; .*--store"):
        store.write("jobs/a", b"")


def test_missing_bucket_is_reported(s3_endpoint: str, tmp_path: Path) -> None:
    store = open_store("s3://no-such-bucket/x")
    with pytest.raises(
        StoreError, match=r"^store s3://no-such-bucket/x: cannot write a: .*; create the bucket"
    ):
        store.write("a", b"")
    (tmp_path / "up").write_bytes(b"")
    with pytest.raises(StoreError, match=r"cannot write b: .*; create the bucket"):
        store.upload("b", tmp_path / "up")


def test_endpoint_that_does_not_answer_is_reported(
    monkeypatch: pytest.MonkeyPatch, bucket: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setattr("orchestrator.s3.client.MAX_ATTEMPTS", 1)
    with pytest.raises(
        StoreError,
        match=r"cannot read a: Could not connect .*127\.0\.0\.1:1/.*; check .*AWS_ENDPOINT_URL",
    ):
        open_store(f"s3://{bucket}").read("a")


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("http://name:se:c@ret@127.0.0.1:9", 'endpoint URL: "http://127.0.0.1:9/'),
        (
            "name:secret@127.0.0.1",
            "AWS_ENDPOINT_URL must be a URL such as https://HOST:PORT; correct it",
        ),
    ],
)
def test_credentials_in_the_endpoint_url_are_not_shown(
    bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str, text: str
) -> None:
    monkeypatch.setattr("orchestrator.s3.client.MAX_ATTEMPTS", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    (tmp_path / "made").write_bytes(b"x")
    store = open_store(f"s3://{bucket}")
    for use in (
        lambda: store.names(""),
        lambda: store.read("y"),
        lambda: store.upload("y", tmp_path / "made"),
    ):
        with pytest.raises(StoreError, match=text) as caught:
            use()
        shown = "".join(traceback.format_exception(caught.value))
        assert not any(part in shown for part in ("name:se", "c@ret", "secret"))


def test_missing_credentials_are_reported(
    monkeypatch: pytest.MonkeyPatch, bucket: str, tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(
        StoreError, match=r"cannot read a: no credentials for S3; set AWS_ACCESS_KEY_ID"
    ):
        open_store(f"s3://{bucket}").read("a")
