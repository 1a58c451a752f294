"""Repairs damaged blobs and manifests of a store from another copy of the same bytes."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from orchestrator.artifact import File, Manifest
from orchestrator.artifacts.scratch import scratch_folder
from orchestrator.artifacts.verify import Damage, Fault, broken_manifests, check_blob
from orchestrator.errors import IntegrityError
from orchestrator.store.blobs import stored_sizes
from orchestrator.store.input_cache import InputCache
from orchestrator.store.protocol import Store
from orchestrator.store.publish import blob_name, fetch_file


class Source(Protocol):
    """A place that may have intact copies."""

    @property
    def location(self) -> str:
        """Where it is, for messages."""

    def fetch(self, file: File, path: Path) -> bool:
        """Copy a published file to `path`. Returns False if there is no intact copy."""

    def manifest(self, name: str) -> bytes | None:
        """Return the content of the manifest `name`, or None."""


@dataclass(frozen=True)
class OtherStore:
    """Another store that has the same artifacts."""

    store: Store

    @property
    def location(self) -> str:
        return self.store.uri

    def fetch(self, file: File, path: Path) -> bool:
        size = stored_sizes(self.store, [file.sha256]).get(file.sha256)
        if size is None:
            return False
        try:  # it is checked by its sha256: `file` may not say the right size
            sized = file.model_copy(update={"size": size})
            fetch_file(self.store, blob_name(file.sha256), sized, path)
        except IntegrityError:
            return False
        return True

    def manifest(self, name: str) -> bytes | None:
        return self.store.read(name)


@dataclass(frozen=True)
class ThisMachine:
    """The inputs that stages have fetched to this machine."""

    cache: InputCache
    location = "this machine's cache"

    def fetch(self, file: File, path: Path) -> bool:
        try:
            return self.cache.take(file, path)
        except OSError as err:
            if err.errno in (errno.ENOSPC, errno.EDQUOT):  # about `path`: the cache is only read
                raise
            return False

    def manifest(self, name: str) -> bytes | None:
        return None


def repair_manifests(
    store: Store, keys: Callable[[], Iterable[str]], sources: Iterable[Source]
) -> dict[Fault, str]:
    """Repair the manifests of `keys` and of their inputs. Returns the faults that are gone, with
    the location that the manifest came from.

    Only what a repaired manifest names can be checked, so this comes before the blobs.
    """
    repaired: dict[Fault, str] = {}
    is_again = True
    while is_again:
        found = {fault: repair(store, fault, sources) for fault in broken_manifests(store, keys())}
        now = {fault: uri for fault, uri in found.items() if uri is not None}
        is_again = bool(now)
        repaired |= now
    return repaired


def repair(store: Store, fault: Fault, sources: Iterable[Source]) -> str | None:
    """Write the bytes again that a fault is about. Returns the location they came from, or None if
    no source has them intact."""
    for source in sources:
        if fault.file is None:
            is_repaired = _repair_manifest(store, fault, source)
        else:
            is_repaired = _repair_blob(store, fault.file, source)
        if is_repaired:
            return source.location
    return None


def _repair_blob(store: Store, file: File, source: Source) -> bool:
    name = blob_name(file.sha256)
    with scratch_folder("repair") as folder:
        path = folder / "blob"
        if not source.fetch(file, path):
            return False
        store.upload(name, path)
        sized = file.model_copy(update={"size": path.stat().st_size})
    return check_blob(store, sized) is None


def _repair_manifest(store: Store, fault: Fault, source: Source) -> bool:
    document = source.manifest(fault.name)
    try:
        if document is None or Manifest.from_json(document, where=fault.name).key != fault.key:
            return False
    except IntegrityError:
        return False
    if fault.damage is Damage.MISSING:
        return store.create(fault.name, document)
    # A manifest is create-only, but what is there now is not a manifest. One write replaces it, so
    # a kill leaves the one or the other.
    store.write(fault.name, document)
    return True
