"""Repairs damaged blobs and manifests of a store from another copy of the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from orchestrator.artifact import File, Manifest
from orchestrator.artifacts.verify import Fault, broken_manifests, check_blob
from orchestrator.errors import IntegrityError
from orchestrator.store.protocol import Store
from orchestrator.store.publish import blob_name, sha256_of


class Source(Protocol):
    """A place that may have intact copies, such as another store."""

    @property
    def uri(self) -> str:
        """The location, for messages."""

    def read(self, name: str) -> bytes | None:
        """Return the content of `name`, or None if it does not exist."""

    def download(self, name: str, path: Path) -> bool:
        """Copy `name` to the file `path`. Returns False if `name` does not exist."""


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
            return source.uri
    return None


def _repair_blob(store: Store, file: File, source: Source) -> bool:
    name = blob_name(file.sha256)
    with TemporaryDirectory(prefix="orchestrator-repair-") as folder:
        path = Path(folder, "blob")
        if not source.download(name, path) or sha256_of(path) != file.sha256:
            return False
        store.upload(name, path)
    return check_blob(store, file) is None


def _repair_manifest(store: Store, fault: Fault, source: Source) -> bool:
    document = source.read(fault.name)
    try:
        if document is None or Manifest.from_json(document, where=fault.name).key != fault.key:
            return False
    except IntegrityError:
        return False
    store.delete(fault.name)  # a manifest is create-only, but what is there now is not a manifest
    return store.create(fault.name, document)
