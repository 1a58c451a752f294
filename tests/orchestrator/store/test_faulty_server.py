"""Through a network that loses, cuts and alters every tenth request, the store stays right."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import TypeVar

import boto3
import botocore.retries.standard
import pytest

from orchestrator.artifact import Artifact, Manifest
from orchestrator.artifacts.gc import collect_garbage
from orchestrator.errors import StoreError
from orchestrator.s3 import client
from orchestrator.store import s3
from orchestrator.store.checkpoints import Newest, commit_checkpoint, fetch_newest_checkpoint
from orchestrator.store.lease import (
    check_owner,
    find_owner,
    lease_name,
    renew_lease,
    take_lease,
)
from orchestrator.store.protocol import Limits
from orchestrator.store.publish import (
    fetch_artifact,
    load_manifest,
    publish_artifact,
    publish_manifest,
)
from orchestrator.store.s3 import S3Store
from orchestrator.store.training import Training
from tests.fault_proxy import FAULTS, Choice, FaultProxy, Request, at_random, fault_proxy
from tests.orchestrator.leases import bare_lease
from tests.orchestrator.store.conftest import OTHER_SERVERS

KEY = "f" * 64
SIZES = {"large": 6 * 2**20, "part": 300_000, "small": 1000, "deep/empty": 0}
PLAIN = re.compile(r"store s3://\S+: [^\n]{20,700}")
PROGRAM_TEXT = re.compile(r"Traceback|botocore|urllib3|An error occurred|Error\(|<\?xml|0x[0-9a-f]")
MOST_TRIES = 20
_T = TypeVar("_T")


@pytest.fixture
def hasty_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use short timeouts, no waits between attempts, and many small parts."""
    monkeypatch.setattr(client, "READ_TIMEOUT_S", 2.0)
    monkeypatch.setattr(client, "UPLOAD_READ_TIMEOUT_S", 5.0)
    monkeypatch.setattr(client, "_PART_BYTES", 5 * 2**20)
    monkeypatch.setattr(s3, "PART_BYTES", 2**20)
    backoff = botocore.retries.standard.ExponentialBackoff
    monkeypatch.setattr(backoff, "delay_amount", lambda *_: 0.01)


def _make_files(folder: Path, seed: int) -> Path:
    draws = Random(seed)
    for name, size in SIZES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(draws.randbytes(size))
    return folder


def _are_equal(first: Path, second: Path) -> bool:
    return all((first / name).read_bytes() == (second / name).read_bytes() for name in SIZES)


def _manifest(token: int, artifact: Artifact) -> Manifest:
    return Manifest(
        key=f"{token:064x}",
        stage="train",
        kind="count",
        recipe={},
        params={},
        artifacts={"model": artifact},
        metrics=(),
        provenance={},
    )


class _Owner:
    """Owner number `token` of a stage, which does all that a stage does with a store."""

    def __init__(self, store: S3Store, folder: Path, token: int, errors: list[StoreError]) -> None:
        self._store, self._folder, self._token, self._errors = store, folder, token, errors

    def work(self) -> Manifest:
        store, training = self._store, Training(f"train/{KEY}", self._token)
        files = _make_files(self._folder / "made", self._token)
        lease = bare_lease(KEY, self._token, f"run{self._token}")
        assert self._insist(lambda: take_lease(store, lease))
        self._insist(lambda: renew_lease(store, lease))
        self._insist(lambda: commit_checkpoint(store, training, files))
        self._insist(lambda: check_owner(store, KEY, self._token))
        artifact = self._insist(lambda: publish_artifact(store, files))
        manifest = _manifest(self._token, artifact)
        assert self._insist(lambda: publish_manifest(store, manifest)) == manifest
        fetched = self._insist(lambda: fetch_artifact(store, artifact, self._folder / "fetched"))
        assert _are_equal(files, fetched)
        self._check_resumed(
            self._insist(lambda: fetch_newest_checkpoint(store, training, self._folder / "resumed"))
        )
        return manifest

    def _check_resumed(self, found: Newest) -> None:
        """A checkpoint that arrives damaged twice is replaced by an older one, but never wrong."""
        assert (found.name is None or found.name.token < self._token) == bool(found.damaged)
        if found.name is not None:
            made = self._folder.with_name(str(found.name.token)) / "made"
            assert _are_equal(made, self._folder / "resumed")

    def _insist(self, do: Callable[[], _T]) -> _T:
        """Try again after each StoreError, as a run does. Other errors fail the test."""
        for _ in range(MOST_TRIES):
            try:
                return do()
            except StoreError as err:
                self._errors.append(err)
        raise AssertionError(self._errors[-MOST_TRIES:])


def _unfinished(bucket: str) -> int:
    return len(boto3.client("s3").list_multipart_uploads(Bucket=bucket).get("Uploads", ()))


def _lost_begins(proxy: FaultProxy) -> int:
    """Uploads in parts that the server began, although its answer was lost."""
    return sum(
        request.method == "POST" and request.path.endswith("?uploads")
        for request in proxy.unanswered
    )


def _once(is_meant: Callable[[Request], bool], fault: str) -> Choice:
    """Fail only the first request that is meant."""
    left = [fault]
    return lambda request: left.pop() if left and is_meant(request) else None


def _is_end(request: Request) -> bool:
    return request.method == "POST" and "uploadId=" in request.path


@pytest.mark.usefixtures("hasty_client")
@pytest.mark.parametrize("store_uri", ["s3", *OTHER_SERVERS], indirect=True)
def test_upload_whose_last_answer_was_lost_is_complete(
    store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client ends the upload again, and some servers no longer know it."""
    files = _make_files(tmp_path / "made", 1)
    with fault_proxy(os.environ["AWS_ENDPOINT_URL"], _once(_is_end, "lost")) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        store = S3Store(store_uri)
        artifact = publish_artifact(store, files)
        assert proxy.num_faults == 1
        assert _are_equal(files, fetch_artifact(store, artifact, tmp_path / "fetched"))


@pytest.mark.usefixtures("hasty_client")
@pytest.mark.parametrize("fault", ["lost", "stall"])
def test_create_whose_answer_was_lost_has_won(
    s3_endpoint: str, bucket: str, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """The client repeats the create, and the server answers that the object exists."""
    with fault_proxy(s3_endpoint, _once(lambda request: request.method == "PUT", fault)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        store = S3Store(f"s3://{bucket}/x")
        assert store.create("pins/a", b"mine")
        assert proxy.num_faults == 1
        assert not store.create("pins/a", b"mine")


@pytest.mark.usefixtures("hasty_client")
def test_repeated_create_does_not_win_over_another(
    s3_endpoint: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process creates the object between the client's two requests."""
    other = S3Store(f"s3://{bucket}/x")
    other.names("")  # so that its client is made before the variable changes

    def lose_to_other(request: Request) -> str | None:
        if request.method != "PUT" or other.read("pins/a") is not None:
            return None
        other.write("pins/a", b"theirs")
        return "reset"

    with fault_proxy(s3_endpoint, lose_to_other) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        assert not S3Store(other.uri).create("pins/a", b"mine")
        assert proxy.num_faults == 1
    assert other.read("pins/a") == b"theirs"


@pytest.mark.usefixtures("hasty_client")
def test_probe_whose_first_answer_was_lost_finds_no_fault(
    s3_endpoint: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fault_proxy(s3_endpoint, _once(lambda request: request.method == "PUT", "lost")) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        store = S3Store(f"s3://{bucket}/x")
        assert store.probe()._replace(clock_skew_s=None) == Limits()
        assert proxy.num_faults == 1
        assert store.names("") == []


@pytest.mark.usefixtures("hasty_client")
@pytest.mark.parametrize("record", ["manifests/", "checkpoints/00000001.json"])
def test_record_that_arrives_altered_is_read_again(
    s3_endpoint: str, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: str
) -> None:
    files, training = _make_files(tmp_path / "made", 1), Training(f"train/{KEY}", 1)
    store = S3Store(f"s3://{bucket}/x")
    manifest = _manifest(1, publish_artifact(store, files))
    publish_manifest(store, manifest)
    commit_checkpoint(store, training, files)
    with fault_proxy(s3_endpoint, _once(lambda request: record in request.path, "flip")) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        store = S3Store(store.uri)
        assert load_manifest(store, manifest.key) == manifest
        assert fetch_newest_checkpoint(store, training, tmp_path / "resumed").damaged == ()
        assert proxy.num_faults == 1


@pytest.mark.parametrize(
    "num_faults",
    [pytest.param(100, marks=pytest.mark.slow), pytest.param(500, marks=pytest.mark.stress)],
)
@pytest.mark.usefixtures("hasty_client")
def test_no_result_is_torn_or_wrong_after_many_faults(
    s3_endpoint: str,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_faults: int,
) -> None:
    manifests: list[Manifest] = []
    errors: list[StoreError] = []
    with fault_proxy(s3_endpoint, at_random(22, share=0.1)) as proxy, monkeypatch.context() as env:
        env.setenv("AWS_ENDPOINT_URL", proxy.url)
        store = S3Store(f"s3://{bucket}/x")
        while proxy.num_faults < num_faults:
            token = len(manifests) + 1
            manifests.append(_Owner(store, tmp_path / str(token), token, errors).work())
    assert set(proxy.faults) == set(FAULTS)
    for error in errors:
        assert PLAIN.fullmatch(str(error)), error
        assert not PROGRAM_TEXT.search(str(error)), error

    direct, newest = S3Store(store.uri), len(manifests)
    assert _unfinished(bucket) <= _lost_begins(proxy)
    collect_garbage(direct, grace_s=3600, blob_grace_s=0, has_results=False, is_dry=False)
    assert _unfinished(bucket) == 0
    for token, manifest in enumerate(manifests, start=1):
        assert load_manifest(direct, manifest.key) == manifest
        again = fetch_artifact(direct, manifest.artifacts["model"], tmp_path / f"again{token}")
        assert _are_equal(again, tmp_path / str(token) / "made")
    found = fetch_newest_checkpoint(direct, Training(f"train/{KEY}", newest), tmp_path / "resumed")
    assert found.damaged == ()
    assert _are_equal(tmp_path / "resumed", tmp_path / str(newest) / "made")
    owner = find_owner(direct, KEY)
    assert owner is not None
    assert owner.lease == bare_lease(KEY, newest, f"run{newest}")
    assert direct.names(f"leases/{KEY}") == [lease_name(KEY, newest)]
