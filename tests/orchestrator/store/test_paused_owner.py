"""An owner that is paused between its check and its write, and wakes up after its successor."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest

from orchestrator.store import Store, open_store
from orchestrator.store.checkpoints import commit_checkpoint, fetch_newest_checkpoint
from orchestrator.store.lease import check_owner, take_lease
from orchestrator.store.publish import load_manifest, publish_manifest
from orchestrator.store.training import Training
from tests.orchestrator.leases import bare_lease
from tests.orchestrator.manifests import bare_manifest

KEY = "c" * 64


def _take(store: Store, token: int) -> Training:
    assert take_lease(store, bare_lease(KEY, token, f"run{token}"))
    return Training(f"train/{KEY}", token)


def _commit(store: Store, training: Training, folder: Path, text: str) -> None:
    folder.mkdir()
    (folder / "state").write_text(text)
    check_owner(store, KEY, training.token)
    commit_checkpoint(store, training, folder)


def _paused_at(store: Store, method: str, work: Callable[[], object]) -> int:
    """Fork a process that does `work` and stops itself before it calls `method` of the store.
    Returns its pid."""
    pid = os.fork()
    if pid == 0:
        original = getattr(store, method)

        def pause(name: str, content: bytes) -> object:
            os.kill(os.getpid(), signal.SIGSTOP)
            return original(name, content)

        with patch.object(store, method, pause):
            work()
        os._exit(0)
    _, status = os.waitpid(pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    return pid


def _wake(pid: int) -> None:
    os.kill(pid, signal.SIGCONT)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.fixture
def store(store_uri: str) -> Store:
    return open_store(store_uri)


def test_a_seal_written_after_a_pause_does_not_count(store: Store, tmp_path: Path) -> None:
    first = _take(store, 1)
    _commit(store, first, tmp_path / "a", "by the first")
    paused = _paused_at(
        store, "write", lambda: _commit(store, first, tmp_path / "b", "late, by the first")
    )
    second = _take(store, 2)
    _commit(store, second, tmp_path / "c", "by the second")
    _wake(paused)
    fetch_newest_checkpoint(store, second, tmp_path / "fetched")
    assert (tmp_path / "fetched" / "state").read_text() == "by the second"


def test_a_manifest_created_after_a_pause_replaces_nothing(store: Store) -> None:
    _take(store, 1)
    paused = _paused_at(
        store, "create", lambda: publish_manifest(store, bare_manifest(KEY, "first"))
    )
    _take(store, 2)
    assert publish_manifest(store, bare_manifest(KEY, "second")) == bare_manifest(KEY, "second")
    _wake(paused)
    assert load_manifest(store, KEY) == bare_manifest(KEY, "second")
