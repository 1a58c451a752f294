"""Writes the evidence of a job into one tar file with a list of digests, signed if asked.

The same results give the same bytes: files are sorted, and have no times and no owners.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from orchestrator.artifact import CODE_PATCH, Artifact, File, Manifest, Value
from orchestrator.artifacts.copy import manifests_of
from orchestrator.artifacts.scratch import disk_errors, scratch_errors, scratch_folder
from orchestrator.artifacts.survey import runs_of_manifest
from orchestrator.contract import CHECKPOINT
from orchestrator.errors import JobError
from orchestrator.runs.last_run import last_run_name, load_last_run
from orchestrator.store.pool import for_each
from orchestrator.store.protocol import Store
from orchestrator.store.publish import blob_name, fetch_file, manifest_name, sha256_of

DIGESTS, SIGNATURE = "digests.json", "signature.json"


class Contents(Value):
    """`digests.json`: the other files of a bundle, sorted by path."""

    schema_version: int = 1
    job: str
    has_weights: bool
    files: tuple[File, ...]


class Signature(Value):
    """`signature.json`: an ed25519 signature of the bytes of `digests.json`."""

    algorithm: str = "ed25519"
    public_key: str
    """32 bytes in base64."""
    signature: str
    """64 bytes in base64."""


@dataclass(frozen=True)
class Bundled:
    """What was written."""

    num_files: int
    size: int
    """Bytes of the tar file."""
    digests_sha256: str
    """Identifies the content of the bundle."""
    signer: str | None
    """The fingerprint of the key that signed it."""


def load_private_key(path: Path) -> Ed25519PrivateKey:
    """Return the key in a PEM file. Raises JobError, which shows nothing of its content."""
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as err:
        raise JobError(f"--sign {path}: cannot be read: {err.strerror}") from err
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        make = f"openssl genpkey -algorithm ed25519 -out {path.name}"
        raise JobError(
            f"--sign {path}: not a PEM file with an ed25519 private key without a passphrase; "
            f"`{make}` makes one"
        )
    return key


def fingerprint(key: Ed25519PublicKey) -> str:
    """Return the sha256 (hex) of a public key, by which people compare it."""
    return hashlib.sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()


def write_bundle(
    store: Store,
    job_name: str,
    target: Path,
    *,
    reports: Mapping[str, bytes],
    has_weights: bool,
    key: Ed25519PrivateKey | None,
) -> Bundled:
    """Write the bundle of a job to `target`, all of it or nothing. `reports` are more files, by
    path.

    Raises JobError if the job has no finished stage in the store, IntegrityError for damaged blobs,
    StoreError if something cannot be read or written.
    """
    last = load_last_run(store, job_name)
    manifests = list(manifests_of(store, last)) if last is not None else []
    if last is None or not manifests:
        raise JobError(f"{job_name}: has no finished stage in the store {store.uri}")
    runs = {run for manifest in manifests for run in runs_of_manifest(manifest)} | {last.run_id}
    with scratch_folder("bundle") as scratch:
        spool = _Spool(store, scratch)
        for path, content in reports.items():
            spool.add(path, content)
        names = [last_run_name(job_name), *(manifest_name(one.key) for one in manifests)]
        names += [entry.name for run in sorted(runs) for entry in store.entries(f"runs/{run}")]
        for_each(spool.add_stored, names)
        blobs = {blob_name(file.sha256): file for file in _bundled_blobs(manifests, has_weights)}
        files = [*spool.files, *(file.model_copy(update={"path": n}) for n, file in blobs.items())]
        files.sort(key=lambda file: file.path)
        contents = Contents(job=job_name, has_weights=has_weights, files=tuple(files))
        digests = contents.model_dump_json(indent=2).encode()
        heads = {DIGESTS: digests, **({SIGNATURE: _signature(digests, key)} if key else {})}
        with disk_errors(target):
            size = _write(target, spool, heads, files)
    signer = fingerprint(key.public_key()) if key else None
    return Bundled(len(files), size, hashlib.sha256(digests).hexdigest(), signer)


class _Spool:
    """Files that go into a bundle, on this disk so that they do not change between their digest and
    their copy. Blobs are fetched one at a time, because their digests are known."""

    def __init__(self, store: Store, folder: Path) -> None:
        self._store, self._folder = store, folder
        self._paths: dict[str, Path] = {}
        self.files: list[File] = []

    def add(self, path: str, content: bytes) -> None:
        self._paths[path] = self._folder / uuid4().hex
        self._paths[path].write_bytes(content)
        self._note(path)

    def add_stored(self, name: str) -> None:
        """Add an object of the store, unless it has vanished since it was listed."""
        self._paths[name] = self._folder / uuid4().hex
        if self._store.download(name, self._paths[name]):
            self._note(name)

    def _note(self, path: str) -> None:
        found = self._paths[path]
        self.files.append(File(path=path, sha256=sha256_of(found), size=found.stat().st_size))

    def take(self, file: File) -> Path:
        """Return a file with the content of `file`, which the caller removes."""
        if file.path in self._paths:
            return self._paths[file.path]
        path = self._folder / uuid4().hex
        with scratch_errors():  # else the error would be about the bundle itself
            fetch_file(self._store, file.path, file, path)
        return path


def _bundled_blobs(manifests: list[Manifest], has_weights: bool) -> Iterator[File]:
    for manifest in manifests:
        for output, artifact in manifest.artifacts.items():
            if output == CODE_PATCH or (has_weights and _has_weights(output, artifact)):
                yield from artifact.files


def _has_weights(output: str, artifact: Artifact) -> bool:
    return output.endswith(CHECKPOINT) and bool(artifact.files)  # a search's is best_checkpoint


def _signature(digests: bytes, key: Ed25519PrivateKey) -> bytes:
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    signature = Signature(
        public_key=base64.b64encode(public).decode(),
        signature=base64.b64encode(key.sign(digests)).decode(),
    )
    return json.dumps(signature.model_dump(), indent=2).encode()


def _write(target: Path, spool: _Spool, heads: Mapping[str, bytes], files: list[File]) -> int:
    draft = target.with_name(f".{target.name}.{uuid4().hex}")
    try:
        with draft.open("xb") as stream:
            with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
                for name, content in heads.items():
                    tar.addfile(_member(name, len(content)), io.BytesIO(content))
                for file in files:
                    _add(tar, file, spool.take(file))
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    return target.stat().st_size


def _add(tar: tarfile.TarFile, file: File, path: Path) -> None:
    with path.open("rb") as content:
        tar.addfile(_member(file.path, file.size), content)
    path.unlink()


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)  # mode 644, time 0, owner 0
    member.size = size
    return member
