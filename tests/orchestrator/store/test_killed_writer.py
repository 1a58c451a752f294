"""A writer that is killed with -9 at any step leaves the store whole, and the next one finishes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.artifact import Manifest
from orchestrator.store import Store, open_store
from orchestrator.store.checkpoints import commit_checkpoint, fetch_newest_checkpoint
from orchestrator.store.publish import (
    fetch_artifact,
    load_manifest,
    publish_artifact,
    publish_manifest,
)
from orchestrator.store.training import Training

KEY = "e" * 64
TRAINING = Training(f"train/{KEY}", 1)
WRITES = ("write", "create", "upload", "upload_as", "delete")
"""The methods with which a writer changes a store."""


@pytest.fixture
def store(store_uri: str) -> Store:
    return open_store(store_uri)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    for name in ("a", "b"):
        (tmp_path / "model" / name).write_text(f"weights {name}")
    return tmp_path / "model"


def _publish(store: Store, model: Path) -> None:
    artifact = publish_artifact(store, model)
    manifest = Manifest(
        key=KEY,
        stage="train",
        kind="count",
        recipe={},
        params={},
        artifacts={"model": artifact},
        metrics=(),
        provenance={},
    )
    publish_manifest(store, manifest)


def _is_killed(store_uri: str, work: Callable[[Store], None], *, at: int, after: bool) -> bool:
    """Do `work` in a process that kills itself before or after its write number `at`, counted from
    0. Returns False if the work has no such write."""
    pid = os.fork()
    if pid == 0:
        store = open_store(store_uri)
        num_left = at

        def killing(original: Callable[..., object]) -> Callable[..., object]:
            def do(*arguments: object, **options: object) -> object:
                nonlocal num_left
                is_last, num_left = num_left == 0, num_left - 1
                if is_last and not after:
                    os.kill(os.getpid(), signal.SIGKILL)
                result = original(*arguments, **options)
                if is_last:
                    os.kill(os.getpid(), signal.SIGKILL)
                return result

            return do

        for name in WRITES:
            setattr(store, name, killing(getattr(store, name)))
        work(store)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


@pytest.mark.parametrize("after", [False, True])
def test_publishing_survives_a_kill_at_every_step(
    store: Store, model: Path, tmp_path: Path, after: bool
) -> None:
    step = 0
    while _is_killed(store.uri, lambda there: _publish(there, model), at=step, after=after):
        manifest = load_manifest(store, KEY)
        if manifest is not None:
            fetch_artifact(store, manifest.artifacts["model"], tmp_path / f"fetched{step}")
        step += 1
    assert step >= 3  # two blobs and the manifest
    manifest = load_manifest(store, KEY)
    assert manifest is not None
    folder = fetch_artifact(store, manifest.artifacts["model"], tmp_path / "fetched")
    assert (folder / "b").read_text() == "weights b"


@pytest.mark.parametrize("after", [False, True])
def test_a_checkpoint_survives_a_kill_at_every_step(
    store: Store, model: Path, tmp_path: Path, after: bool
) -> None:
    for _ in range(3):  # so that the work has old ones to delete
        commit_checkpoint(store, TRAINING, model)
    step = 0
    while _is_killed(
        store.uri, lambda there: commit_checkpoint(there, TRAINING, model), at=step, after=after
    ):
        found = fetch_newest_checkpoint(store, TRAINING, tmp_path / "fetched")
        assert found.damaged == ()
        assert (tmp_path / "fetched" / "b").read_text() == "weights b"
        step += 1
    assert step >= 4  # two files, the seal and at least one deletion
