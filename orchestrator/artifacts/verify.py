"""Checks the chain of digests: a Key to its manifest, a manifest to its inputs and its blobs, and,
if asked, a blob to its bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import NamedTuple

from pydantic import JsonValue

from orchestrator.artifact import File, Manifest, digest_of
from orchestrator.artifacts.lineage import input_keys, outside_sha256s
from orchestrator.errors import IntegrityError
from orchestrator.store.blobs import files_of, stored_sizes
from orchestrator.store.protocol import Store
from orchestrator.store.publish import blob_name, load_manifest, manifest_name

OUTSIDE = "outside"
"""Instead of the name of an output, for the files from outside the job that a stage read."""
BATCH = 20_000
"""Files that are checked with one listing of the blobs. Bounds memory to some 30 MB."""


class Damage(StrEnum):
    """What is wrong with a name in the store."""

    MISSING = "missing"
    DAMAGED = "damaged"
    """A manifest that does not agree with its own digest or with its Key."""
    WRONG_SIZE = "wrong size"
    WRONG_BYTES = "wrong bytes"


@dataclass(frozen=True)
class Fault:
    """A broken link of the chain."""

    damage: Damage
    name: str
    """The blob or the manifest, as the store names it."""
    key: str
    """The Key of the manifest that is or names it."""
    stage: str | None
    """None if the manifest cannot be read."""
    text: str
    """What was found, and what was expected."""
    file: File | None = None
    """The file whose bytes the blob has; None for a manifest."""
    output: str | None = None
    job: str | None = None
    """The job that published it, as the manifest says."""

    def to_json(self) -> dict[str, JsonValue]:
        fields = asdict(self)
        return {**fields, "damage": str(self.damage), "file": self.file and self.file.path}


@dataclass(frozen=True)
class Checked:
    """A stage whose manifest and blobs were looked at."""

    key: str
    stage: str | None
    """None if there is no manifest, or if it is damaged."""
    num_files: int
    size: int
    """In bytes, as published. Of files from outside the job, as the store has them."""
    faults: tuple[Fault, ...]

    @property
    def is_finished(self) -> bool:
        return self.stage is not None or bool(self.faults)


class Finding(NamedTuple):
    """What is wrong with a blob, and in words what was found."""

    damage: Damage
    text: str


class _Held(NamedTuple):
    """A file of a stage and where it belongs."""

    output: str
    file: File


def verify(store: Store, keys: Iterable[str], *, is_deep: bool) -> Iterator[Checked]:
    """Check the manifests of `keys` and of their inputs, back to the first stage.

    `is_deep` reads all bytes. Otherwise blobs are checked by name and size. Takes memory for the
    Keys and for a batch of files, whatever their sizes.
    """
    batch: list[tuple[str, Manifest | Fault | None]] = []
    num_files = 0
    for key, found in _load_chain(store, keys):
        batch.append((key, found))
        num_files += 1 + (len(_sha256s(found)) if isinstance(found, Manifest) else 0)
        if num_files >= BATCH:
            yield from _check_blobs(store, batch, is_deep=is_deep)
            batch, num_files = [], 0
    yield from _check_blobs(store, batch, is_deep=is_deep)


def broken_manifests(store: Store, keys: Iterable[str]) -> Iterator[Fault]:
    """Yield the manifests of `keys` and of their inputs that are damaged, or missing but needed."""
    for _, found in _load_chain(store, keys):
        if isinstance(found, Fault):
            yield found


def check_blob(store: Store, file: File) -> Finding | None:
    """Read a blob and compare it with its digest. Returns None if it is intact."""
    try:
        pieces = store.stream(blob_name(file.sha256), size=file.size)
        if pieces is None:
            return Finding(Damage.MISSING, "does not exist")
        digest = hashlib.sha256()
        for piece in pieces:
            digest.update(piece)
    except IntegrityError as err:
        return Finding(Damage.WRONG_SIZE, str(err))
    if digest.hexdigest() != file.sha256:
        return Finding(Damage.WRONG_BYTES, f"its bytes have the sha256 {digest.hexdigest()}")
    return None


def _load_chain(store: Store, keys: Iterable[str]) -> Iterator[tuple[str, Manifest | Fault | None]]:
    """Yield the manifest of each Key, and of each Key among its inputs, once.

    A stage of `keys` without a manifest is not finished, which is None. It is a fault if another
    stage was made from it.
    """
    is_known: dict[str, bool] = {}
    for key in keys:
        cited_by: dict[str, Manifest | None] = {key: None}
        while cited_by:
            current, citing = cited_by.popitem()
            if is_known.get(current):
                continue
            found = _load(store, current, citing)
            is_known[current] = found is not None
            yield current, found
            if isinstance(found, Manifest):
                cited_by |= dict.fromkeys(input_keys(found), found)


def _load(store: Store, key: str, citing: Manifest | None) -> Manifest | Fault | None:
    name = manifest_name(key)
    try:
        manifest = load_manifest(store, key)
    except IntegrityError as err:
        text = str(err).removeprefix(f"store {store.uri}: {name}: ")
        return Fault(Damage.DAMAGED, name, key, None, text)
    if manifest is None:
        if citing is None:
            return None
        text = f"does not exist, but {citing.stage} ({citing.key[:8]}) was made from it"
        return Fault(Damage.MISSING, name, key, None, text)
    if manifest.key != key:
        text = f"is the manifest of another Key, {manifest.key}"
    elif digest_of(dict(manifest.recipe)) != key:
        text = "its recipe has another sha256 than its Key"
    else:
        return manifest
    return Fault(Damage.DAMAGED, name, key, manifest.stage, text)


def _check_blobs(
    store: Store, batch: Sequence[tuple[str, Manifest | Fault | None]], *, is_deep: bool
) -> Iterator[Checked]:
    manifests = [found for _, found in batch if isinstance(found, Manifest)]
    sizes = stored_sizes(store, (sha256 for one in manifests for sha256 in _sha256s(one)))
    known: dict[str, Finding | None] = {}
    for key, manifest in batch:
        if not isinstance(manifest, Manifest):
            yield Checked(key, None, 0, 0, () if manifest is None else (manifest,))
            continue
        all_held = list(_held(manifest, sizes))
        for held in all_held:
            if held.file.sha256 not in known:
                known[held.file.sha256] = _check(store, held.file, sizes, is_deep=is_deep)
        faults = [
            _fault_of_blob(finding, held, manifest)
            for held in all_held
            if (finding := known[held.file.sha256]) is not None
        ]
        size = sum(held.file.size for held in all_held)
        yield Checked(key, manifest.stage, len(all_held), size, tuple(faults))


def _check(store: Store, file: File, sizes: Mapping[str, int], *, is_deep: bool) -> Finding | None:
    """Check a blob by the size that it has in the store, and, if `is_deep`, by its bytes."""
    size = sizes.get(file.sha256)
    if size is None:
        return Finding(Damage.MISSING, "does not exist")
    if size != file.size:
        return Finding(Damage.WRONG_SIZE, f"has {size} bytes instead of {file.size}")
    return check_blob(store, file) if is_deep else None


def _fault_of_blob(finding: Finding, held: _Held, manifest: Manifest) -> Fault:
    job = manifest.provenance.get("job")
    return Fault(
        *(finding.damage, blob_name(held.file.sha256), manifest.key, manifest.stage),
        text=finding.text,
        file=held.file,
        output=held.output,
        job=job if isinstance(job, str) else None,
    )


def _held(manifest: Manifest, sizes: Mapping[str, int]) -> Iterator[_Held]:
    """Yield the files of a manifest. Of those from outside the job, it does not say the size: they
    have the one in `sizes`."""
    for output, artifact in manifest.artifacts.items():
        for file in artifact.files:
            yield _Held(output, file)
    for sha256 in outside_sha256s(manifest):
        yield _Held(OUTSIDE, File(path=sha256, sha256=sha256, size=sizes.get(sha256, 0)))


def _sha256s(manifest: Manifest) -> list[str]:
    """Return the sha256 of all blobs that a manifest needs."""
    return [*(file.sha256 for file in files_of(manifest)), *outside_sha256s(manifest)]
