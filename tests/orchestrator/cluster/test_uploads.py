"""Checkpoints are committed in the background, in order, and their errors are raised."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from orchestrator.cluster.uploads import Cost, Uploads
from orchestrator.errors import DataError, StoppedError, StoreError


class Target:
    """A commit that blocks until it is released, or fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.released = threading.Event()
        self.committed: list[tuple[str, float | None]] = []
        self._error = error

    def commit(self, folder: Path, score: float | None) -> None:
        assert self.released.wait(timeout=600)
        if self._error is not None:
            raise self._error
        self.committed.append((folder.name, score))


def _folder(tmp_path: Path, name: str) -> Path:
    (tmp_path / name).mkdir()
    return tmp_path / name


def test_folder_is_committed_in_the_background_and_deleted(tmp_path: Path) -> None:
    target, folder = Target(), _folder(tmp_path, "one")
    with Uploads(target.commit) as uploads:
        uploads.hand_over(folder, 0.5)
        assert target.committed == []
        assert folder.exists()
        target.released.set()
    assert target.committed == [("one", 0.5)]
    assert not folder.exists()


def test_second_folder_waits_for_the_first(tmp_path: Path) -> None:
    target = Target()
    with Uploads(target.commit) as uploads:
        uploads.hand_over(_folder(tmp_path, "one"))
        threading.Timer(0.2, target.released.set).start()
        uploads.hand_over(_folder(tmp_path, "two"))
        assert ("one", None) in target.committed
    assert [name for name, _ in target.committed] == ["one", "two"]


def test_failed_upload_shows_before_the_next_call(tmp_path: Path) -> None:
    target = Target(StoreError("S3 is out of reach"))
    uploads = Uploads(target.commit)
    assert not uploads.has_failed
    uploads.hand_over(_folder(tmp_path, "one"))
    assert not uploads.has_failed
    target.released.set()
    while not uploads.has_failed:
        time.sleep(0.01)
    with pytest.raises(StoreError):
        uploads.finish()
    assert not uploads.has_failed


def test_upload_error_is_raised_by_the_next_call(tmp_path: Path) -> None:
    target = Target(StoreError("S3 is out of reach"))
    target.released.set()
    uploads = Uploads(target.commit)
    uploads.hand_over(_folder(tmp_path, "one"))
    with pytest.raises(StoreError):
        uploads.hand_over(_folder(tmp_path, "two"))
    uploads.hand_over(_folder(tmp_path, "three"))
    with pytest.raises(StoreError):
        uploads.__exit__(None, None, None)
    assert (tmp_path / "three").exists()


def _fail_after_hand_over(target: Target, folder: Path, error: Exception) -> None:
    with Uploads(target.commit) as uploads:
        uploads.hand_over(folder)
        raise error


@pytest.mark.parametrize(
    ("error", "heard"), [(DataError("wrong"), DataError), (StoppedError("asked"), StoreError)]
)
def test_upload_error_replaces_stopped_error_but_no_other(
    tmp_path: Path, error: Exception, heard: type[Exception]
) -> None:
    target = Target(StoreError("S3 is out of reach"))
    target.released.set()
    with pytest.raises(heard):
        _fail_after_hand_over(target, _folder(tmp_path, "one"), error)


def test_upload_is_finished_before_the_blocks_error_is_raised(tmp_path: Path) -> None:
    target = Target()
    threading.Timer(0.2, target.released.set).start()
    with pytest.raises(DataError):
        _fail_after_hand_over(target, _folder(tmp_path, "one"), DataError("wrong"))
    assert target.committed == [("one", None)]


def test_cost_has_the_wait_and_the_size_of_each_upload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, costs = Target(), list[Cost]()
    with Uploads(target.commit, on_cost=costs.append) as uploads:
        (_folder(tmp_path, "one") / "state.bin").write_bytes(b"12345")
        uploads.hand_over(tmp_path / "one")
        finish = uploads.finish

        def finish_after_a_wait() -> None:
            time.sleep(0.2)
            target.released.set()
            finish()

        monkeypatch.setattr(uploads, "finish", finish_after_a_wait)
        uploads.hand_over(_folder(tmp_path, "two"))
    _, wait_s = (cost.blocked_s for cost in costs if not cost.upload_s)
    assert wait_s >= 0.2
    assert [cost.upload_bytes for cost in costs if cost.upload_s] == [5, 0]
