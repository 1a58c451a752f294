"""Publish to a store and fetch from it: blobs by sha256, manifests by Key. Every read is
checked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from orchestrator.artifact import Artifact, File, Manifest
from orchestrator.cache_room import locked
from orchestrator.errors import IntegrityError, StoreError
from orchestrator.store.input_cache import InputCache
from orchestrator.store.protocol import Store

FETCHES = 2
"""Downloads of a file whose bytes differ from its sha256: a transfer may go wrong once."""
SMALL_BYTES = 2**24
"""Smaller files are transferred several at a time. S3 uses several threads for a larger one."""
FILES_AT_ONCE = 8
MANIFESTS = "manifests"

TRAINING = "train"
"""The folder of all resume state."""

_T = TypeVar("_T")
_R = TypeVar("_R")


def blob_name(sha256: str) -> str:
    return f"blobs/sha256/{sha256[:2]}/{sha256}"


def manifest_name(key: str) -> str:
    return f"{MANIFESTS}/{key}.json"


def key_of_manifest(name: str) -> str:
    """Return the Key of a manifest. The reverse of `manifest_name`."""
    return name.removeprefix(f"{MANIFESTS}/").removesuffix(".json")


def training_name(key: str) -> str:
    """The folder of a stage's mutable resume state until its manifest exists."""
    return f"{TRAINING}/{key}"


def publish_artifact(store: Store, folder: Path, *, always: bool = False) -> Artifact:
    """Upload every file below `folder` as a blob.

    A blob that the store already has may be skipped, unless `always`, which repairs a damaged one:
    a server reports the checksum that it computed when the blob was written.
    """

    def publish(path: Path) -> File:
        digests = store.upload_as(blob_name, path, always=always)
        name = path.relative_to(folder).as_posix()
        return File(path=name, sha256=digests.sha256, size=digests.size)

    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return Artifact(files=tuple(_each(publish, paths, [path.stat().st_size for path in paths])))


def fetch_artifact(
    store: Store,
    artifact: Artifact,
    folder: Path,
    *,
    key: str | None = None,
    cache: InputCache | None = None,
) -> Path:
    """Download `artifact` into `folder` and return the folder. What `cache` has is not downloaded;
    its files are read-only.

    Raises IntegrityError for a missing or altered blob. It names the stage and the job if `key` is
    the Key of the manifest that has the artifact.
    """

    def fetch(file: File) -> None:
        try:
            _fetch_blob(store, file, folder / file.path, cache)
        except IntegrityError as err:
            raise IntegrityError(f"{err} ({file.path}){_repair(store, key)}") from err

    _each(fetch, artifact.files, [file.size for file in artifact.files])
    return folder


def _fetch_blob(store: Store, file: File, path: Path, cache: InputCache | None) -> None:
    name = blob_name(file.sha256)
    if cache is None or not cache.is_worth_it(store):
        fetch_file(store, name, file, path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with locked(cache.lock_of(file)):
            if not cache.take(file, path):
                fetch_file(store, name, file, path)
                cache.put(file, path)
    except OSError:  # the cache cannot be used; if the worker's own disk is full, this fails again
        fetch_file(store, name, file, path)


def fetch_file(store: Store, name: str, file: File, path: Path) -> None:
    """Download `name` to `path`, at most `file.size` bytes. What is not `file` is deleted, and
    downloaded once more; then IntegrityError is raised."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for fetches_left in reversed(range(FETCHES)):
        try:
            _fetch_once(store, name, file, path)
        except BaseException as err:
            path.unlink(missing_ok=True)
            if isinstance(err, OSError) and err.filename is None:  # such as a full disk's
                err.filename = str(path)
            if not isinstance(err, IntegrityError) or not fetches_left:
                raise
        else:
            return


def _fetch_once(store: Store, name: str, file: File, path: Path) -> None:
    pieces = store.stream(name, size=file.size)
    if pieces is None:
        raise IntegrityError(f"store {store.uri}: {name} is missing")
    digest, num_left = hashlib.sha256(), file.size
    with path.open("wb") as target:
        for piece in pieces:
            num_left -= len(piece)
            if num_left < 0:
                break
            digest.update(piece)
            target.write(piece)
    if num_left or digest.hexdigest() != file.sha256:
        raise IntegrityError(f"store {store.uri}: {name} differs from its sha256")


def _repair(store: Store, key: str | None) -> str:
    """Return what to do about a damaged blob of the manifest with this Key."""
    if key is None:
        return "; run again with --force STAGE for the stage that made it"
    try:
        manifest = load_manifest(store, key)
    except StoreError:
        manifest = None
    if manifest is None:
        return f"; it belongs to {manifest_name(key)}: run again with --force for its stage"
    job = manifest.provenance.get("job", "JOB")
    return (
        f", of {manifest_name(key)}, stage {manifest.stage} of job {job}; repair it with "
        f"`orchestrator artifacts verify JOB --repair`, or run the job again with --force "
        f"{manifest.stage}"
    )


def _each(do: Callable[[_T], _R], items: Sequence[_T], sizes: Sequence[int]) -> list[_R]:
    """Return `do` of each item, small ones in parallel.

    The first one is done before the others, so that threads do not each create a client.
    """
    if len(items) == 1:
        return [do(items[0])]
    small = [index for index, size in enumerate(sizes) if size < SMALL_BYTES]
    done: dict[int, _R] = {}
    with ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="transfer") as pool:
        for index in small[:1]:
            done[index] = do(items[index])
        try:
            pending = {index: pool.submit(do, items[index]) for index in small[1:]}
            done |= {n: do(item) for n, item in enumerate(items) if sizes[n] >= SMALL_BYTES}
            done |= {index: future.result() for index, future in pending.items()}
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [done[index] for index in range(len(items))]


def publish_manifest(store: Store, manifest: Manifest) -> Manifest:
    """Publish the manifest of a stage, which marks the stage as finished.

    Returns the manifest that is then in the store: another process may have published one first.
    """
    while not store.create(manifest_name(manifest.key), manifest.to_json()):
        existing = load_manifest(store, manifest.key)
        if existing is not None:  # else `artifacts gc --results` has just removed an old one
            return existing
    return manifest


def load_manifest(store: Store, key: str) -> Manifest | None:
    """Return the manifest of `key`, or None. Raises IntegrityError if its content was altered."""
    name = manifest_name(key)
    return read_checked(
        store, name, lambda text: Manifest.from_json(text, where=f"store {store.uri}: {name}")
    )


def read_checked(store: Store, name: str, use: Callable[[bytes], _R]) -> _R | None:
    """Return `use` of the content of `name`, or None if it does not exist.

    After an IntegrityError the content is read once more, because a transfer may go wrong once. If
    it is the same again, the error is raised.
    """
    content = store.read(name)
    if content is None:
        return None
    try:
        return use(content)
    except IntegrityError:
        again = store.read(name)
        if again is None or again == content:
            raise
    return use(again)


def clear_training(store: Store, key: str) -> None:
    """Delete the resume state of a stage whose manifest is published: checkpoints, trials, and the
    list of runs that trained it, which the manifest's provenance also has."""
    store.clear(training_name(key))


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
