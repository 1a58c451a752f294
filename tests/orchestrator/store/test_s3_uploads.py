"""What is uploaded to S3, and what is skipped because the server has it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import boto3
import pytest

from orchestrator.digests import Digests, digest_file
from orchestrator.errors import StoreError
from orchestrator.s3 import client, transfer
from orchestrator.store import s3
from orchestrator.store.publish import blob_name, fetch_artifact, publish_artifact, sha256_of
from orchestrator.store.s3 import S3Store
from tests.fault_proxy import QUICK, each_once, fault_proxy
from tests.s3_front import Answer, Front, front, refusal

ONE_REQUEST, IN_PARTS = 2**19, 2**24 + 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file that is uploaded in one request and one in parts."""
    folder = tmp_path / "output"
    folder.mkdir()
    (folder / "small").write_bytes(os.urandom(ONE_REQUEST))
    (folder / "large").write_bytes(os.urandom(2**20) * (IN_PARTS // 2**20) + b"x")
    return folder


@pytest.fixture
def forget(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Forget what this process knows about S3, as another process would begin."""
    return lambda: monkeypatch.setattr(s3, "_confirmed", {})


def _pass_on(method: str, path: str, headers: Mapping[str, str]) -> Answer | None:
    return None


@contextmanager
def _observed(
    endpoint: str,
    monkeypatch: pytest.MonkeyPatch,
    answer: Callable[[str, str, Mapping[str, str]], Answer | None] = _pass_on,
) -> Iterator[Front]:
    with front(answer, behind=endpoint) as server, monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", server.url)
        yield server


def _uploads(server: Front) -> int:
    return sum(method == "PUT" for method, _ in server.requests)


def test_blobs_with_matching_checksums_are_not_uploaded_again(
    bucket: str,
    s3_endpoint: str,
    folder: Path,
    forget: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uri = f"s3://{bucket}/x"
    artifact = publish_artifact(S3Store(uri), folder)
    forget()
    with _observed(s3_endpoint, monkeypatch) as server:
        assert publish_artifact(S3Store(uri), folder) == artifact
        assert [method for method, _ in server.requests] == ["HEAD", "HEAD"]
        assert publish_artifact(S3Store(uri), folder) == artifact
        assert len(server.requests) == 2  # this process has just asked
        publish_artifact(S3Store(uri), folder, always=True)
        assert _uploads(server) == 3  # one, and two parts


def test_old_blob_is_uploaded_again_before_gc_deletes_it(
    bucket: str,
    s3_endpoint: str,
    folder: Path,
    forget: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish_artifact(S3Store(f"s3://{bucket}/x"), folder)
    forget()
    monkeypatch.setattr(s3, "SKIP_YOUNGER_S", -1)
    with _observed(s3_endpoint, monkeypatch) as server:
        publish_artifact(S3Store(f"s3://{bucket}/x"), folder)
        assert _uploads(server) == 3


def _without_checksums(method: str, path: str, headers: Mapping[str, str]) -> Answer | None:
    names = {name.lower() for name in headers}
    has_checksum = any(name.startswith("x-amz-checksum") for name in names)
    return refusal(501, "NotImplemented") if has_checksum else None


def test_without_checksums_a_blob_is_uploaded_again(
    bucket: str,
    s3_endpoint: str,
    folder: Path,
    forget: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uri = f"s3://{bucket}/x"
    with _observed(s3_endpoint, monkeypatch, _without_checksums) as server:
        store = S3Store(uri)
        artifact = publish_artifact(store, folder)
        forget()
        server.requests.clear()
        publish_artifact(store, folder)
        assert _uploads(server) == 3
        fetch_artifact(store, artifact, folder.parent / "fetched")


@pytest.mark.parametrize("always", [False, True])
def test_damaged_blob_that_the_server_calls_right_needs_always(
    bucket: str,
    s3_endpoint: str,
    folder: Path,
    tmp_path: Path,
    forget: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    always: bool,
) -> None:
    """A server computes a checksum once. It does not notice that a disk has flipped a byte."""
    (folder / "large").unlink()
    store, digests = S3Store(f"s3://{bucket}/x"), digest_file(folder / "small")
    (artifact, blob) = publish_artifact(store, folder), blob_name(digests.sha256)
    flipped = bytearray((folder / "small").read_bytes())
    flipped[1000] ^= 1
    store.write(blob, bytes(flipped))
    said = {
        "x-amz-checksum-sha256": transfer._sha256(digests),
        "x-amz-checksum-type": "FULL_OBJECT",
    }
    head = Answer(
        200,
        bytes(digests.size),
        {**said, "Last-Modified": time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())},
    )
    forget()
    with _observed(s3_endpoint, monkeypatch, lambda method, *_: head if method == "HEAD" else None):
        publish_artifact(S3Store(store.uri), folder, always=always)
    assert store.download(blob, tmp_path / "blob")
    assert (sha256_of(tmp_path / "blob") == artifact.files[0].sha256) is always


def test_only_checksums_of_whole_objects_are_compared() -> None:
    digests = Digests(sha256="00" * 32, crc32=1, size=5)
    right, other = transfer._crc32(digests), "AAAABQ=="
    answers = [(5, {right}, True), (5, {other}, False), (5, set(), None), (4, {right}, False)]
    for size, checksums, expected in answers:
        assert transfer.Stored(size, 0, frozenset(checksums)).matches(digests) is expected


@pytest.mark.parametrize(
    ("checksum", "is_read"),
    [
        ({"x-amz-checksum-crc32": "AAAABQ==", "x-amz-checksum-type": "FULL_OBJECT"}, True),
        ({"x-amz-checksum-crc32": "AAAABQ==", "x-amz-checksum-type": "COMPOSITE"}, False),
        ({"x-amz-checksum-crc32": "AAAABQ==-3"}, False),
    ],
)
def test_checksum_of_parts_is_ignored(
    s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, checksum: Mapping[str, str], is_read: bool
) -> None:
    with _observed(s3_endpoint, monkeypatch, lambda *_: Answer(200, b"12345", checksum)):
        connection = client.new_client(max_connections=1, read_timeout_s=10)
        stored = transfer.look_up(
            connection, {"Bucket": "b", "Key": "k"}, checks=transfer.Checks.WHOLE
        )
    assert stored.size == 5
    assert bool(stored.checksums) is is_read
    assert stored.age_s is None


def test_server_that_checks_only_parts_gets_no_checksum_of_the_whole(
    bucket: str, s3_endpoint: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ministack and MinIO before 2025, it compares it with one of the parts' checksums."""

    def refuse_whole(method: str, path: str, headers: Mapping[str, str]) -> Answer | None:
        is_end = method == "POST" and "uploadId" in path
        is_whole = any(name.lower() == "x-amz-checksum-crc32" for name in headers)
        return refusal(400, "XAmzContentChecksumMismatch") if is_end and is_whole else None

    with _observed(s3_endpoint, monkeypatch, refuse_whole) as server:
        store = S3Store(f"s3://{bucket}/x")
        for name in ("first", "second"):
            store.upload(name, folder / "large")
    assert _uploads(server) == 3 * 2  # of two parts; the first upload was refused
    assert "Uploads" not in boto3.client("s3").list_multipart_uploads(Bucket=bucket)


def test_upload_that_the_server_shortens_is_repeated_and_reported(
    bucket: str, s3_endpoint: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shorten(method: str, *_: object) -> Answer | None:
        return {"HEAD": Answer(200, b"short"), "PUT": Answer(200)}.get(method)

    with (
        _observed(s3_endpoint, monkeypatch, shorten) as server,
        pytest.raises(StoreError, match=r"x: small differs from what was uploaded, 2 times; check"),
    ):
        S3Store(f"s3://{bucket}/x").upload("small", folder / "small")
    assert _uploads(server) == 2


def test_md5_in_the_answer_saves_a_request(
    bucket: str, s3_endpoint: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = S3Store(f"s3://{bucket}/x")
    with _observed(s3_endpoint, monkeypatch, _without_checksums) as server:
        store.upload("small", folder / "small")
        store.upload("small", folder / "small")
    assert [method for method, _ in server.requests] == ["PUT", "PUT", "PUT"]  # one was refused


@pytest.mark.parametrize(
    ("name", "answer"),
    [("small", _pass_on), ("small", _without_checksums), ("large", _without_checksums)],
)
def test_file_that_changes_after_it_was_hashed_is_an_error(
    bucket: str,
    s3_endpoint: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    answer: Callable[[str, str, Mapping[str, str]], Answer | None],
) -> None:
    digests, path = digest_file(folder / name), folder / name
    path.write_bytes(os.urandom(1) + path.read_bytes()[1:-1] + b"y")
    monkeypatch.setattr(s3, "digest_file", lambda *_, **__: digests)  # before it changed
    with (
        _observed(s3_endpoint, monkeypatch, answer) as server,
        pytest.raises(StoreError, match=f"{name} changed while it was published; find out"),
    ):
        S3Store(f"s3://{bucket}/x").upload_as(blob_name, path)
    assert (_uploads(server) > 0) is (name == "large")  # a small one is checked before


def test_failed_upload_in_parts_is_aborted(
    bucket: str, s3_endpoint: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_second(method: str, path: str, headers: Mapping[str, str]) -> Answer | None:
        return refusal(503, "SlowDown") if "partNumber=2" in path else None

    monkeypatch.setattr(client, "MAX_ATTEMPTS", 1)
    with (
        _observed(s3_endpoint, monkeypatch, fail_second),
        pytest.raises(StoreError, match="overloaded"),
    ):
        S3Store(f"s3://{bucket}/x").upload("large", folder / "large")
    assert "Uploads" not in boto3.client("s3").list_multipart_uploads(Bucket=bucket)
    assert S3Store(f"s3://{bucket}/x").names("") == []


def test_upload_survives_faults_and_leaves_no_parts(
    bucket: str, s3_endpoint: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # If the answer to the begin of an upload is lost, nobody but the server knows the upload.
    faults = [fault for fault in QUICK if fault != "lost"]
    with fault_proxy(s3_endpoint, each_once(cycle(faults))) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        store = S3Store(f"s3://{bucket}/x")
        fetch_artifact(store, publish_artifact(store, folder), tmp_path / "fetched")
        monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    assert proxy.num_faults > 5
    assert (tmp_path / "fetched" / "large").read_bytes() == (folder / "large").read_bytes()
    assert "Uploads" not in boto3.client("s3").list_multipart_uploads(Bucket=bucket)
