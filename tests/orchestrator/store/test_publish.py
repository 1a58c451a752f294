"""Publishing and fetching: fetched content is exactly what was published."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.artifact import Artifact, File, Manifest, Metric
from orchestrator.errors import IntegrityError
from orchestrator.store import Store, open_store
from orchestrator.store.folder import FolderStore
from orchestrator.store.publish import (
    blob_name,
    clear_training,
    fetch_artifact,
    fetch_file,
    key_of_manifest,
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


def test_error_for_a_damaged_blob_names_its_stage(
    store: Store, artifact: Artifact, tmp_path: Path
) -> None:
    manifest = _manifest(90).model_copy(update={"provenance": {"job": "cat"}})
    publish_manifest(store, manifest)
    store.write(blob_name(artifact.files[1].sha256), b"WEIGHTS")
    named = (
        r"blobs/\w+/\w+/\w+ differs from its sha256 \(model\.bin\), of manifests/a+\.json, stage "
        r"pretrain of job cat; .*`orchestrator artifacts verify JOB --repair`.* --force pretrain"
    )
    with pytest.raises(IntegrityError, match=named):
        fetch_artifact(store, artifact, tmp_path / "fetched", key="a" * 64)


class FirstReadIsWrong(FolderStore):
    """A store whose first answer for each blob has a wrong byte, as after a faulty transfer."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.num_streams = 0

    def stream(self, name: str, *, size: int) -> Iterator[bytes] | None:
        self.num_streams += 1
        return super().stream(name, size=size) if self.num_streams > 1 else iter([bytes(size)])


def test_damaged_download_is_repeated_once(tmp_path: Path) -> None:
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "model.bin").write_bytes(b"weights")
    store = FirstReadIsWrong(tmp_path / "store")
    folder = fetch_artifact(store, publish_artifact(store, tmp_path / "output"), tmp_path / "got")
    assert (folder / "model.bin").read_bytes() == b"weights"
    assert store.num_streams == 2


class EndlessStore(FolderStore):
    """A store that sends more bytes than it was asked for, and counts them."""

    num_sent = 0

    def stream(self, name: str, *, size: int) -> Iterator[bytes] | None:
        def pieces() -> Iterator[bytes]:
            while True:
                self.num_sent += 1
                yield b"x"

        return pieces()


def test_never_more_bytes_are_read_than_the_manifest_states(tmp_path: Path) -> None:
    store = EndlessStore(tmp_path / "store")
    file = File(path="model.bin", sha256="a" * 64, size=10)
    with pytest.raises(IntegrityError, match="differs from its sha256"):
        fetch_file(store, "blobs/x", file, tmp_path / "model.bin")
    assert store.num_sent == 2 * 11
    assert not (tmp_path / "model.bin").exists()


def test_artifact_of_many_and_large_files_is_fetched_whole(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number}").write_bytes(os.urandom(number * 100))
    (folder / "large").write_bytes(os.urandom(2**20) * 17 + b"end")
    artifact = publish_artifact(store, folder)
    assert [file.path for file in artifact.files] == sorted(path.name for path in folder.iterdir())
    fetched = fetch_artifact(store, artifact, tmp_path / "fetched")
    assert filecmp.cmpfiles(folder, fetched, [file.path for file in artifact.files], shallow=False)[
        0
    ] == [file.path for file in artifact.files]


def test_resume_state_is_cleared_and_nothing_else(store: Store) -> None:
    for name in ("train/abc/checkpoints/00000001.json", "train/abc/runs/r", "train/abcd/x", "y/z"):
        store.write(name, b"1")
    clear_training(store, "abc")
    clear_training(store, "abc")
    assert store.names("train") == ["train/abcd/x"]
    assert store.names("y") == ["y/z"]


def test_publishing_always_repairs_a_damaged_blob(
    store: Store, artifact: Artifact, tmp_path: Path
) -> None:
    store.write(blob_name(artifact.files[0].sha256), b"damaged")
    assert publish_artifact(store, tmp_path / "output", always=True) == artifact
    fetch_artifact(store, artifact, tmp_path / "fetched")


def test_name_of_a_manifest_has_its_key() -> None:
    assert key_of_manifest(manifest_name("a" * 64)) == "a" * 64


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
