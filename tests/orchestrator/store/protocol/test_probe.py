"""Probing a store finds errors at once that a run would get hours later, and leaves nothing."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NoReturn

import pytest

from orchestrator.errors import StoreError, StoreRefusedError
from orchestrator.store import Store, folder, open_store, s3
from orchestrator.store.protocol import Limits
from tests.conftest import make_bucket
from tests.s3_server import CONFLICTING, IGNORING, OCCUPIED, REFUSING
from tests.s3_servers import FOR_ONE_RUN

NAME = "manifests/k.json"


def _failing(code: int) -> Callable[..., NoReturn]:
    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.fixture(params=[errno.EOPNOTSUPP, errno.EPERM, errno.ENOSYS, errno.EMLINK, errno.EACCES])
def linkless(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Store:
    """A store on a file system without hard links, with each error code of such file systems."""
    monkeypatch.setattr(os, "link", _failing(request.param))
    return open_store(str(tmp_path / "store"))


def test_probing_a_good_store_leaves_no_files(
    store_uri: str, request: pytest.FixtureRequest
) -> None:
    store = open_store(store_uri)
    store.write(NAME, b"{}")
    limits = store.probe()._replace(clock_skew_s=None)
    assert limits.is_for_one_run is (request.node.callspec.params["store_uri"] in FOR_ONE_RUN)
    assert limits.is_for_one_run or limits == Limits()
    store.check_access()
    assert store.names("manifests") == [NAME]
    if not store_uri.startswith("s3://"):
        assert [path.name for path in Path(store_uri).iterdir()] == ["manifests"]
    else:
        assert open_store(store_uri.rpartition("/")[0]).names("prefix") == [f"prefix/{NAME}"]


def test_create_needs_no_hard_links(linkless: Store) -> None:
    assert linkless.probe()._replace(clock_skew_s=None) == Limits()
    assert linkless.create(NAME, b"first")
    assert not linkless.create(NAME, b"second")
    assert linkless.read(NAME) == b"first"
    assert linkless.names("") == [NAME]


def _create(store: Store, content: bytes, wins: multiprocessing.SimpleQueue[bool]) -> None:
    wins.put(store.create(NAME, content))


def _read(store: Store, seen: multiprocessing.SimpleQueue[tuple[int, int]]) -> None:
    """Report the length of the first content read, and its number of different bytes."""
    deadline_s = time.monotonic() + 120
    while (found := store.read(NAME)) is None:
        assert time.monotonic() < deadline_s, "no process created it"
        time.sleep(0.001)
    seen.put((len(found), len(set(found))))


def test_one_of_many_creators_wins_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", _failing(errno.EOPNOTSUPP))
    store, context = open_store(str(tmp_path)), multiprocessing.get_context("fork")
    wins: multiprocessing.SimpleQueue[bool] = context.SimpleQueue()
    seen: multiprocessing.SimpleQueue[tuple[int, int]] = context.SimpleQueue()
    racers = [
        context.Process(target=_create, args=(store, b"%d" % n * 100_000, wins)) for n in range(8)
    ]
    readers = [context.Process(target=_read, args=(store, seen)) for _ in range(2)]
    for process in (*readers, *racers):
        process.start()
    for process in (*racers, *readers):
        process.join()
    assert sorted(wins.get() for _ in racers) == [False] * 7 + [True]
    assert [seen.get() for _ in readers] == [(100_000, 1)] * 2


def test_claim_of_a_crashed_process_is_replaced(linkless: Store, tmp_path: Path) -> None:
    claim = tmp_path / "store" / "manifests" / ".k.json.claim1"
    claim.parent.mkdir(parents=True)
    claim.touch()
    long_ago_s = time.time() - folder.CLAIM_WAIT_S - 1
    os.utime(claim, (long_ago_s, long_ago_s))
    assert linkless.create(NAME, b"resumed")
    assert not linkless.create(NAME, b"again")
    assert linkless.read(NAME) == b"resumed"


def test_claim_of_a_failed_create_is_removed(
    linkless: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(os, "rename", _failing(errno.EIO))
        broken.setattr(os, "replace", _failing(errno.EIO))
        with pytest.raises(StoreError, match=r"cannot write manifests/k\.json: Input/output error"):
            linkless.create(NAME, b"first")
    assert linkless.create(NAME, b"second")


def test_file_system_without_renames_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "replace", _failing(errno.ENOSYS))
    with pytest.raises(
        StoreRefusedError,
        match=r"store .*: cannot write probe-.*: Function not implemented; .*--store",
    ):
        open_store(str(tmp_path)).probe()
    assert list(tmp_path.iterdir()) == []


def test_file_system_without_exclusive_create_is_refused(
    linkless: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "_create_exclusively", _failing(errno.EINVAL))
    with pytest.raises(
        StoreError, match=r"neither hard links nor exclusive creation of files \(.*Invalid argument"
    ):
        linkless.probe()


@pytest.mark.parametrize(
    ("free", "text"), [(2**23, None), (2**29, "only 512 MiB are free on its disk; checkpoints")]
)
def test_little_disk_space_is_a_warning_too_little_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, text: str | None
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    store = open_store(str(tmp_path))
    if text is not None:
        (warning,) = store.probe().warnings
        assert text in warning
    else:
        with pytest.raises(StoreError, match=r"8 MiB are free on its disk; free some space"):
            store.probe()


@pytest.mark.parametrize("kind", [IGNORING, REFUSING])
def test_server_without_conditional_puts_is_a_warning(s3_endpoint: str, kind: str) -> None:
    store = open_store(f"s3://{make_bucket(kind)}/runs")
    limits = store.probe()
    (warning,) = limits.warnings
    assert limits.is_for_one_run
    assert "does not support conditional puts" in warning
    assert "only one run at a time" in warning
    assert store.create(NAME, b"first")
    assert not store.create(NAME, b"second")
    assert store.read(NAME) == b"first"


def test_put_that_always_conflicts_is_given_up(
    s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "CONFLICT_WAIT_S", 0)
    uri = f"s3://{make_bucket(CONFLICTING)}/runs"
    with pytest.raises(
        StoreError,
        match=rf"^store {uri}: cannot write {NAME}: another process kept writing it; run again$",
    ):
        open_store(uri).create(NAME, b"first")


def test_server_that_confuses_new_and_existing_objects_is_refused(s3_endpoint: str) -> None:
    uri = f"s3://{make_bucket(OCCUPIED)}/runs"
    with pytest.raises(
        StoreRefusedError,
        match=rf"^store {uri}: the server reports that a new object already exists; choose another "
        "store with --store$",
    ):
        open_store(uri).probe()


def test_missing_bucket_is_refused(s3_endpoint: str) -> None:
    store = open_store("s3://no-such-bucket/x")
    for probe in (store.probe, store.check_access):
        with pytest.raises(StoreRefusedError, match="create the bucket"):
            probe()


def _ends_in(hours: float) -> str:
    return (datetime.now(UTC) + timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_credentials_that_expire_soon_are_refused(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(f"s3://{bucket}")
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", _ends_in(hours=3))
    (warning,) = store.probe().warnings
    assert "more than 179 minutes fails" in warning or "more than 180 minutes fails" in warning
    store.check_access()
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", _ends_in(hours=0.1))
    for probe in (store.probe, store.check_access):
        with pytest.raises(
            StoreRefusedError, match=r"expire at .* and are not renewed; get new ones"
        ):
            probe()
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", "soon")
    with pytest.raises(StoreError, match="AWS_CREDENTIAL_EXPIRATION is 'soon', not a time such as"):
        store.probe()
