"""Writers wait for marks, announce what they refer to, and leave no note behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.artifact import Artifact, File, Manifest
from orchestrator.errors import StoreError
from orchestrator.store import Store, open_store
from orchestrator.store.blobs import publish_with_blobs
from orchestrator.store.marks import (
    ANNOUNCED_WORK_S,
    announced,
    await_unmarked,
    mark,
    refer_to_blobs,
)
from orchestrator.store.publish import blob_name, manifest_name, sha256_of

KEY = "a" * 64


@pytest.fixture
def store(store_uri: str) -> Store:
    return open_store(store_uri)


def test_a_writer_waits_until_no_mark_names_its_blob(store: Store) -> None:
    marks = [mark(store, ["blobs/one", "blobs/two"]), mark(store, ["blobs/two"])]
    await_unmarked(store, ["blobs/three"], sleep=_never)
    await_unmarked(store, ["blobs/two"], sleep=lambda _: store.delete(marks.pop()))
    assert marks == []


def _never(_: float) -> None:
    raise AssertionError("it waits")


def test_blobs_are_announced_until_the_manifest_exists(store: Store) -> None:
    seen = refer_to_blobs(
        store, ["blobs/one"], ensure=lambda: None, commit=lambda: list(announced(store))
    )
    assert seen == ["blobs/one"]
    assert store.names("publishing") == []


def test_a_failed_writer_leaves_no_announcement(store: Store) -> None:
    def fail() -> None:
        raise StoreError("broken")

    with pytest.raises(StoreError, match="broken"):
        refer_to_blobs(store, ["blobs/one"], ensure=fail, commit=lambda: None)
    assert store.names("publishing") == []


def test_a_writer_that_took_too_long_checks_again(store: Store) -> None:
    checks: list[str] = []
    times_s = iter([0.0, ANNOUNCED_WORK_S + 1, 5000.0, 5001.0, 5002.0])
    refer_to_blobs(
        store,
        ["blobs/one"],
        ensure=lambda: checks.append("ensure"),
        commit=lambda: checks.append("commit"),
        clock=lambda: next(times_s),
    )
    assert checks == ["ensure", "ensure", "commit"]


def test_a_damaged_note_is_named(store: Store) -> None:
    store.write("gc/odd.json", b"{")
    with pytest.raises(StoreError, match=r"gc/odd\.json is damaged; delete it if no other"):
        await_unmarked(store, ["blobs/one"])


def test_a_manifest_is_published_only_with_its_blobs(store: Store, tmp_path: Path) -> None:
    paths = {"model": tmp_path / "model", "backbone": tmp_path / "backbone"}
    for name, path in paths.items():
        path.write_text(name)
    file, outside = (
        File(path=name, sha256=sha256_of(path), size=len(name)) for name, path in paths.items()
    )
    manifest = Manifest(
        key=KEY,
        stage="pretrain",
        kind="pretrain",
        recipe={},
        params={},
        artifacts={"checkpoint": Artifact(files=(file,))},
        metrics=(),
        provenance={},
    )
    uploaded: list[File] = []

    def upload(file: File) -> None:
        assert store.read(manifest_name(KEY)) is None
        uploaded.append(file)
        store.upload(blob_name(file.sha256), paths[file.path])

    assert publish_with_blobs(store, manifest, upload, outside=[outside]) == manifest
    assert publish_with_blobs(store, manifest, upload, outside=[outside]) == manifest
    assert uploaded == [file, outside]
