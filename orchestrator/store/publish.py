"""Publish to a store and fetch from it: blobs by sha256, manifests by Key. Every read is
checked."""

from __future__ import annotations

import hashlib
from pathlib import Path

from orchestrator.artifact import Artifact, File, Manifest
from orchestrator.errors import IntegrityError
from orchestrator.store.protocol import Store


def blob_name(sha256: str) -> str:
    return f"blobs/sha256/{sha256[:2]}/{sha256}"


def manifest_name(key: str) -> str:
    return f"manifests/{key}.json"


def training_name(key: str) -> str:
    """The folder of a stage's mutable resume state until its manifest exists."""
    return f"train/{key}"


def publish_artifact(store: Store, folder: Path) -> Artifact:
    """Upload every file below `folder` as a blob. An existing blob is overwritten, which repairs a
    damaged one."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return Artifact(files=tuple(_publish_file(store, folder, path) for path in paths))


def _publish_file(store: Store, folder: Path, path: Path) -> File:
    file = File(
        path=path.relative_to(folder).as_posix(), sha256=sha256_of(path), size=path.stat().st_size
    )
    store.upload(blob_name(file.sha256), path)
    return file


def fetch_artifact(store: Store, artifact: Artifact, folder: Path) -> Path:
    """Download `artifact` into `folder` and return the folder. Raises IntegrityError for a missing
    or altered blob."""
    for file in artifact.files:
        path = folder / file.path
        found = store.download(blob_name(file.sha256), path) and sha256_of(path) == file.sha256
        if not found:
            path.unlink(missing_ok=True)
            raise IntegrityError(
                f"store {store.uri}: {blob_name(file.sha256)} ({file.path}) is missing or differs "
                "from its sha256; run again with --force STAGE for the stage that made it"
            )
    return folder


def publish_manifest(store: Store, manifest: Manifest) -> Manifest:
    """Publish the manifest of a stage, which marks the stage as finished.

    Returns the manifest that is then in the store: another process may have published one first.
    """
    if store.create(manifest_name(manifest.key), manifest.to_json()):
        return manifest
    existing = load_manifest(store, manifest.key)
    assert existing is not None, "a manifest is never deleted during a run"
    return existing


def load_manifest(store: Store, key: str) -> Manifest | None:
    """Return the manifest of `key`, or None. Raises IntegrityError if its content was altered."""
    document = store.read(manifest_name(key))
    if document is None:
        return None
    return Manifest.from_json(document, where=f"store {store.uri}: {manifest_name(key)}")


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
