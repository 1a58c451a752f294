"""Publishing and fetching: fetched content is exactly what was published."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.artifact import Artifact, Manifest, Metric
from orchestrator.errors import IntegrityError
from orchestrator.store import Store, open_store
from orchestrator.store.publish import (
    blob_name,
    fetch_artifact,
    load_manifest,
    manifest_name,
    publish_artifact,
    publish_manifest,
)


@pytest.fixture
def store(store_uri: str) -> Store:
    return open_store(store_uri)


@pytest.fixture
def artifact(store: Store, tmp_path: Path) -> Artifact:
    folder = tmp_path / "output"
    (folder / "deep").mkdir(parents=True)
    (folder / "model.bin").write_bytes(b"weights")
    (folder / "deep" / "note.txt").write_bytes(b"note")
    return publish_artifact(store, folder)


def _manifest(value: float) -> Manifest:
    metric = Metric(name="top1", value=value, num_samples=100)
    return Manifest(
        key="a" * 64,
        stage="pretrain",
        kind="pretrain",
        recipe={},
        params={},
        artifacts={},
        metrics=(metric,),
        provenance={},
    )


def test_artifact_is_fetched_byte_for_byte(
    store: Store, artifact: Artifact, tmp_path: Path
) -> None:
    folder = fetch_artifact(store, artifact, tmp_path / "fetched")
    assert (folder / "model.bin").read_bytes() == b"weights"
    assert (folder / "deep" / "note.txt").read_bytes() == b"note"


@pytest.mark.parametrize("damage", ["altered", "missing"])
def test_damaged_blob_is_refused_and_leaves_no_file(
    store: Store, artifact: Artifact, tmp_path: Path, damage: str
) -> None:
    blob = blob_name(next(file.sha256 for file in artifact.files if file.path == "model.bin"))
    if damage == "altered":
        store.write(blob, b"weighty")
    else:
        store.delete(blob)
    with pytest.raises(IntegrityError, match=r"model\.bin.*--force STAGE"):
        fetch_artifact(store, artifact, tmp_path / "fetched")
    assert not (tmp_path / "fetched" / "model.bin").exists()


def test_publishing_again_repairs_a_damaged_blob(
    store: Store, artifact: Artifact, tmp_path: Path
) -> None:
    store.write(blob_name(artifact.files[0].sha256), b"damaged")
    assert publish_artifact(store, tmp_path / "output") == artifact
    fetch_artifact(store, artifact, tmp_path / "fetched")


def test_published_manifest_is_never_overwritten(store: Store) -> None:
    first = publish_manifest(store, _manifest(90))
    assert publish_manifest(store, _manifest(10)) == first
    assert load_manifest(store, "a" * 64) == first


def test_edited_manifest_is_refused(store: Store) -> None:
    publish_manifest(store, _manifest(90))
    document = store.read(manifest_name("a" * 64)) or b""
    store.write(manifest_name("a" * 64), document.replace(b"90.0", b"99.0"))
    with pytest.raises(
        IntegrityError, match=r"manifests/a+\.json: its content differs from its sha256"
    ):
        load_manifest(store, "a" * 64)


@pytest.mark.parametrize("document", [b"", b"[]", b'{"key": 1}', b"\xff"])
def test_content_that_is_not_a_manifest_is_refused(store: Store, document: bytes) -> None:
    store.write(manifest_name("a" * 64), document)
    with pytest.raises(IntegrityError, match="not a manifest"):
        load_manifest(store, "a" * 64)


@pytest.mark.parametrize("path", ["/etc/passwd", "../up", "a/../../up", "a//b", "."])
def test_artifact_cannot_name_a_path_outside_its_folder(path: str) -> None:
    with pytest.raises(ValueError, match="not a plain relative path"):
        Artifact.model_validate({"files": [{"path": path, "sha256": "a" * 64, "size": 1}]})
