"""Checks a bundle without its store. A bundle may come from anyone, so nothing in it is extracted,
and nothing that it says about sizes is trusted."""

from __future__ import annotations

import base64
import binascii
import hashlib
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from pydantic import ValidationError

from orchestrator.artifact import File, Manifest
from orchestrator.artifacts.bundle import DIGESTS, SIGNATURE, Contents, Signature, fingerprint
from orchestrator.errors import IntegrityError, JobError

MOST_HEAD_BYTES = 2**26
"""The largest digests.json: some 300,000 files."""
MOST_MANIFEST_BYTES = 2**24
MOST_READ_BYTES = 2**20
"""Nothing is read from a bundle in larger pieces. The headers of a tar file can claim any size."""


@dataclass(frozen=True)
class Checked:
    """What was found in a bundle."""

    job: str
    num_files: int
    num_results: int
    size: int
    """Bytes of the files."""
    digests_sha256: str
    signer: str | None
    """The fingerprint of the key with which it is signed; None without a signature."""
    is_trusted: bool
    """Whether that is the key that the caller trusts."""
    faults: tuple[str, ...]


def load_public_key(path: Path) -> Ed25519PublicKey:
    """Return the key in a PEM file. Raises JobError."""
    try:
        key = load_pem_public_key(path.read_bytes())
    except OSError as err:
        raise JobError(f"--public-key {path}: cannot be read: {err.strerror}") from err
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        make = "openssl pkey -in PRIVATE.pem -pubout"
        raise JobError(
            f"--public-key {path}: not a PEM file with an ed25519 public key; `{make}` prints it"
        )
    return key


def check_bundle(path: Path, *, trusted: Ed25519PublicKey | None = None) -> Checked:
    """Read the bundle at `path` once and return what is wrong with it.

    With `trusted`, a bundle that this key did not sign has a fault. Raises IntegrityError if it is
    not a bundle, JobError if the file cannot be read.
    """
    try:
        with path.open("rb") as file, _opened(file, path) as tar:
            members = _members(tar)
            digests = _head(tar, next(members, None), DIGESTS, path)
            contents = _parse(digests, path)
            check = _Check(path, contents, digests, trusted)
            for member in members:
                check.member(tar, member)
            check.rest(file)
    except OSError as err:
        raise JobError(f"{path}: cannot be read: {err.strerror or err}") from err
    except (tarfile.TarError, EOFError, ValueError) as err:
        raise IntegrityError(f"{path}: the bundle is damaged: {err}") from err
    return Checked(
        job=contents.job,
        num_files=len(contents.files),
        num_results=check.num_results,
        size=sum(one.size for one in contents.files),
        digests_sha256=hashlib.sha256(digests).hexdigest(),
        signer=check.signer,
        is_trusted=check.is_trusted,
        faults=check.end(),
    )


class _Pieces:
    """A file that refuses to read much at once."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.tell, self.seek = file.tell, file.seek

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MOST_READ_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)


@contextmanager
def _opened(file: IO[bytes], path: Path) -> Iterator[tarfile.TarFile]:
    """Open an uncompressed tar file: a compressed one may expand without limit."""
    try:
        tar = tarfile.open(fileobj=_Pieces(file), mode="r:", errorlevel=2)  # type: ignore[call-overload]  # noqa: SIM115
    except tarfile.TarError as err:
        raise IntegrityError(f"{path}: is not a bundle: {err}") from err
    with tar:
        yield tar


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]  # it would keep all of them
        yield member


def _head(tar: tarfile.TarFile, member: tarfile.TarInfo | None, name: str, path: Path) -> bytes:
    if member is None or member.name != name or not _is_plain(member):
        raise IntegrityError(f"{path}: is not a bundle: its first file is not {name}")
    if member.size > MOST_HEAD_BYTES:
        raise IntegrityError(f"{path}: {name} has {member.size} bytes, which is too much")
    return b"".join(_content(tar, member))


def _parse(digests: bytes, path: Path) -> Contents:
    try:
        contents = Contents.model_validate_json(digests)
    except ValidationError as err:
        raise IntegrityError(f"{path}: {DIGESTS} is not a list of digests") from err
    if contents.schema_version != 1:
        raise IntegrityError(f"{path}: {DIGESTS} is of another release")
    return contents


def _is_plain(member: tarfile.TarInfo) -> bool:
    return member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    stream = tar.extractfile(member)
    assert stream is not None, "a plain file"
    left = member.size
    while left:
        piece = stream.read(min(left, MOST_READ_BYTES))
        if not piece:
            raise tarfile.ReadError("it ends in the middle of a file")
        left -= len(piece)
        yield piece


class _Check:
    """Compares the files of a bundle with its digests, one after the other."""

    def __init__(
        self, path: Path, contents: Contents, digests: bytes, trusted: Ed25519PublicKey | None
    ) -> None:
        self._path, self._digests, self._trusted = path, digests, trusted
        self._left = {one.path: one for one in contents.files}
        self._seen: set[str] = {DIGESTS}
        self._faults: list[str] = []
        self.num_results = 0
        self.signer: str | None = None
        self.is_trusted = False

    def member(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        name = ascii(member.name)[1:-1]
        if member.name in self._seen:
            self._faults.append(f"{name}: is there twice")
        elif not _is_plain(member):
            self._faults.append(f"{name}: is a link or another special file")
        elif member.name == SIGNATURE and len(self._seen) == 1:
            self._signature(_head(tar, member, SIGNATURE, self._path))
        elif member.name not in self._left:
            self._faults.append(f"{name}: is not listed in {DIGESTS}")
        else:
            self._file(tar, member, self._left.pop(member.name))
        self._seen.add(member.name)

    def _file(self, tar: tarfile.TarFile, member: tarfile.TarInfo, listed: File) -> None:
        if member.size != listed.size:
            what = f"has {member.size} bytes instead of {listed.size}"
            self._faults.append(f"{listed.path}: {what}")
            return
        is_manifest = listed.path.startswith("manifests/") and listed.size <= MOST_MANIFEST_BYTES
        digest, kept = hashlib.sha256(), b""
        for piece in _content(tar, member):
            digest.update(piece)
            kept += piece if is_manifest else b""
        if digest.hexdigest() != listed.sha256:
            self._faults.append(f"{listed.path}: differs from its sha256")
        elif listed.path.startswith("blobs/") and not listed.path.endswith(f"/{listed.sha256}"):
            self._faults.append(f"{listed.path}: is not named by its sha256")
        elif is_manifest:
            self._manifest(listed.path, kept)

    def _manifest(self, path: str, content: bytes) -> None:
        try:
            manifest = Manifest.from_json(content, where=path)
        except IntegrityError as err:
            self._faults.append(str(err))
            return
        self.num_results += 1
        if path != f"manifests/{manifest.key}.json":
            self._faults.append(f"{path}: is the manifest of {manifest.key}")

    def _signature(self, content: bytes) -> None:
        try:
            signature = Signature.model_validate_json(content)
            key = Ed25519PublicKey.from_public_bytes(base64.b64decode(signature.public_key))
            key.verify(base64.b64decode(signature.signature), self._digests)
        except (ValueError, binascii.Error, InvalidSignature):
            self._faults.append(f"{SIGNATURE}: is not a signature of {DIGESTS}")
            return
        self.signer = fingerprint(key)
        self.is_trusted = self._trusted is not None and key == self._trusted

    def rest(self, file: IO[bytes]) -> None:
        """A tar file ends with zeros. Anything else would be hidden from these checks."""
        while piece := file.read(MOST_READ_BYTES):
            if piece.strip(b"\0"):
                self._faults.append("the bundle has more bytes after its last file")
                return

    def end(self) -> tuple[str, ...]:
        self._faults += [f"{name}: is missing" for name in self._left]
        if self._trusted is not None and not self.is_trusted:
            by = "nobody" if self.signer is None else f"the key {self.signer}"
            self._faults.append(f"it is signed by {by}, not by {fingerprint(self._trusted)}")
        return tuple(self._faults)
