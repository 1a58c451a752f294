"""Which blobs a store has, and manifests that never name a missing one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from orchestrator.artifact import File, Manifest
from orchestrator.store.marks import Clock, Sleep, clock_s, refer_to_blobs
from orchestrator.store.protocol import Store
from orchestrator.store.publish import blob_name, publish_manifest


def missing_files(store: Store, files: Iterable[File]) -> list[File]:
    """Return the files without a blob of their size, each once."""
    wanted = {file.sha256: file for file in files}
    sizes = stored_sizes(store, wanted)
    return [file for sha256, file in wanted.items() if sizes.get(sha256) != file.size]


def stored_sizes(store: Store, sha256s: Iterable[str]) -> dict[str, int]:
    """Return the blobs with these sha256 that the store has, with their sizes there in bytes. Lists
    at most 256 folders."""
    wanted = {blob_name(sha256): sha256 for sha256 in sha256s}
    folders = sorted({name.rpartition("/")[0] for name in wanted})
    entries = (entry for folder in folders for entry in store.entries(folder))
    return {wanted[entry.name]: entry.size for entry in entries if entry.name in wanted}


def stored_files(store: Store, sha256s: Iterable[str]) -> list[File]:
    """Return the blobs with these sha256 that the store has. Their paths are their sha256."""
    sizes = stored_sizes(store, sha256s)
    return [File(path=sha256, sha256=sha256, size=size) for sha256, size in sizes.items()]


def files_of(manifest: Manifest) -> tuple[File, ...]:
    """Return all files of a manifest."""
    return tuple(file for artifact in manifest.artifacts.values() for file in artifact.files)


def publish_with_blobs(
    store: Store,
    manifest: Manifest,
    upload: Callable[[File], None],
    *,
    outside: Iterable[File] = (),
    clock: Clock = clock_s,
    sleep: Sleep = time.sleep,
) -> Manifest:
    """Publish a manifest as `publish_manifest` does, next to a gc. Calls `upload` for each file
    whose blob is missing, also for those from `outside` the job that the stage read."""
    files = (*files_of(manifest), *outside)

    def ensure() -> None:
        for file in missing_files(store, files):
            upload(file)

    return refer_to_blobs(
        store,
        {blob_name(file.sha256) for file in files},
        ensure=ensure,
        commit=lambda: publish_manifest(store, manifest),
        clock=clock,
        sleep=sleep,
    )
