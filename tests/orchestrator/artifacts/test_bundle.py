"""A bundle is complete and the same each time; any change in it is noticed without the store."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from orchestrator.artifacts import evidence
from orchestrator.artifacts.bundle import fingerprint, load_private_key, write_bundle
from orchestrator.artifacts.evidence import Checked, check_bundle, load_public_key
from orchestrator.errors import IntegrityError, JobError, StoreError
from tests.orchestrator.artifacts.published import (
    Published,
    in_folder,
    publish_with_outside,
    published,
)

__all__ = ["in_folder", "published"]

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
Member = tuple[tarfile.TarInfo, bytes]


def write(
    published: Published, name: str = "out.tar", *, has_weights: bool = True, is_signed: bool = True
) -> Path:
    path = Path(name)
    write_bundle(
        published.store,
        "small",
        path,
        reports={"report.json": b"{}", "report.html": b"<html>"},
        has_weights=has_weights,
        key=KEY if is_signed else None,
    )
    return path


def members(path: Path) -> list[Member]:
    with tarfile.open(path, "r:") as tar:
        return [(one, tar.extractfile(one).read()) for one in tar]  # type: ignore[union-attr]


def rewritten(path: Path, change: Callable[[list[Member]], list[Member]]) -> Path:
    """A copy of a bundle with other members."""
    with tarfile.open("changed.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for one, content in change(members(path)):
            one.size = len(content) if one.isreg() else 0
            tar.addfile(one, io.BytesIO(content))
    return Path("changed.tar")


def test_a_bundle_has_all_evidence_and_is_intact(published: Published) -> None:
    published.store.write("runs/20260101T000000-a/run.json", b"{}")
    path = write(published)
    names = [one.name for one, _ in members(path)]
    assert names[:2] == ["digests.json", "signature.json"]
    assert names[2:] == sorted(names[2:])
    tops = {name.partition("/")[0] for name in names[2:]}
    assert tops == {"blobs", "jobs", "manifests", "report.html", "report.json", "runs"}
    checked = check_bundle(path, trusted=KEY.public_key())
    assert (checked.faults, checked.num_results, checked.is_trusted) == ((), 2, True)
    assert checked.signer == fingerprint(KEY.public_key())


def test_weights_are_only_in_it_if_asked_for(published: Published) -> None:
    names = [one.name for one, _ in members(write(published, has_weights=False))]
    assert not any(name.startswith("blobs/") for name in names)
    assert b"weights" in [content for _, content in members(write(published))]


def test_files_from_outside_the_job_come_with_the_weights(in_folder: Published) -> None:
    name = publish_with_outside(in_folder, b"backbone")
    path = write(in_folder)
    assert name in [one.name for one, _ in members(path)]
    assert check_bundle(path).faults == ()


def test_the_same_results_give_the_same_bytes(published: Published) -> None:
    assert write(published, "a.tar").read_bytes() == write(published, "b.tar").read_bytes()


def test_a_bundle_that_cannot_be_written_leaves_nothing(published: Published) -> None:
    before = write(published).read_bytes()
    published.store.delete(published.blob(b"weights"))
    with pytest.raises(IntegrityError, match="missing"):
        write(published)
    assert Path("out.tar").read_bytes() == before
    assert list(Path().glob(".out.tar*")) == []
    with pytest.raises(StoreError, match=r"^no/out\.tar: cannot be written: No such file"):
        write(published, "no/out.tar", has_weights=False)


def _renamed(one: Member, name: str) -> Member:
    one[0].name = name
    return one


def _as_link(one: Member) -> Member:
    one[0].type, one[0].linkname = tarfile.SYMTYPE, "/etc/passwd"
    return one


CHANGES: dict[str, tuple[Callable[[list[Member]], list[Member]], str]] = {
    "altered": (
        lambda all_: [*all_[:-1], (all_[-1][0], b"[]")],
        "report.json: differs from its sha",
    ),
    "grown": (lambda all_: [*all_[:-1], (all_[-1][0], b"{ }")], "report.json: has 3 bytes instead"),
    "missing": (lambda all_: all_[:-1], "report.json: is missing"),
    "twice": (lambda all_: [*all_, all_[-1]], "report.json: is there twice"),
    "outside": (
        lambda all_: [*all_[:-1], _renamed(all_[-1], "../../up")],
        r"\.\./\.\./up: is not listed",
    ),
    "link": (lambda all_: [*all_[:-1], _as_link(all_[-1])], "report.json: is a link or another"),
    "signature": (
        lambda all_: [
            all_[0],
            (all_[1][0], all_[1][1].replace(b'"signature": "', b'"signature": "AAAA')),
            *all_[2:],
        ],
        "signature.json: is not a signature",
    ),
    "digests": (
        lambda all_: [(all_[0][0], all_[0][1].replace(b'"small"', b'"other"')), *all_[1:]],
        "signature.json: is not a signature",
    ),
}


def _nested(all_: list[Member]) -> list[Member]:
    """A bundle whose manifest is 200,000 brackets, and whose digests agree with that."""
    name, content = next((one.name, c) for one, c in all_ if one.name.startswith("manifests/"))
    brackets = b"[" * 200_000
    digests = all_[0][1].replace(
        hashlib.sha256(content).hexdigest().encode(), hashlib.sha256(brackets).hexdigest().encode()
    )
    digests = digests.replace(f'"size": {len(content)}\n'.encode(), b'"size": 200000\n')
    changed = [(one, brackets if one.name == name else content) for one, content in all_[1:]]
    return [(all_[0][0], digests), *changed]


def test_a_manifest_of_brackets_is_a_fault(in_folder: Published) -> None:
    checked = check_bundle(rewritten(write(in_folder, is_signed=False), _nested))
    assert len(checked.faults) == 1
    assert re.search(r"^manifests/\w+\.json: not a manifest: .*recursion", checked.faults[0])


def test_a_signature_that_is_too_large_is_an_error_about_the_bundle(
    in_folder: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(in_folder)
    large = len(members(path)[0][1])
    monkeypatch.setattr(evidence, "MOST_HEAD_BYTES", large)
    changed = rewritten(path, lambda all_: [all_[0], (all_[1][0], b" " * (large + 1)), *all_[2:]])
    with pytest.raises(IntegrityError, match=r"^changed\.tar: signature\.json has .* too much$"):
        check_bundle(changed)


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_a_fault(published: Published, change: str) -> None:
    alter, fault = CHANGES[change]
    checked = check_bundle(rewritten(write(published), alter))
    assert any(re.search(fault, one) for one in checked.faults), checked.faults


def _faults(content: bytes) -> Checked:
    Path("odd.tar").write_bytes(content)
    return check_bundle(Path("odd.tar"))


def test_bytes_after_the_end_are_a_fault(published: Published) -> None:
    content = write(published).read_bytes()
    assert _faults(content + b"\0" * 512).faults == ()
    assert _faults(content + b"hidden").faults == ("the bundle has more bytes after its last file",)


def test_what_is_not_a_whole_bundle_is_refused(published: Published) -> None:
    content = write(published).read_bytes()
    for odd in (b"", b"text", b"\x1f\x8b" + content, content[:5000], content[10240:]):
        with pytest.raises(IntegrityError, match=r"^odd\.tar: "):
            _faults(odd)


def test_a_tar_file_without_digests_is_not_a_bundle(in_folder: Published) -> None:
    changed = rewritten(write(in_folder, is_signed=False), lambda all_: all_[1:])
    with pytest.raises(IntegrityError, match=r"is not a bundle: its first file is not digests\."):
        check_bundle(changed)


def test_a_header_that_claims_much_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    huge = tarfile.TarInfo("././@PaxHeader")
    huge.type, huge.size = tarfile.XHDTYPE, 2**40
    with pytest.raises(IntegrityError, match="a header of"):
        _faults(huge.tobuf(tarfile.GNU_FORMAT) + b"\0" * 10240)


def test_a_trusted_key_must_have_signed(published: Published) -> None:
    path = write(published)
    faults = check_bundle(path, trusted=OTHER_KEY.public_key()).faults
    assert faults[0].startswith(f"it is signed by the key {fingerprint(KEY.public_key())}, not by")
    unsigned = write(published, is_signed=False)
    assert check_bundle(unsigned).faults == ()
    assert "signed by nobody" in check_bundle(unsigned, trusted=KEY.public_key()).faults[0]


def test_keys_are_read_from_pem_files_and_never_shown(tmp_path: Path) -> None:
    private = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = tmp_path / "key.pem"
    path.write_bytes(private)
    assert load_private_key(path).public_key() == KEY.public_key()
    path.write_bytes(private[:-60])
    with pytest.raises(JobError, match="not a PEM file with an ed25519 private key") as raised:
        load_private_key(path)
    assert private.decode().splitlines()[1] not in str(raised.value)
    with pytest.raises(JobError, match="not a PEM file with an ed25519 public key"):
        load_public_key(path)
    with pytest.raises(JobError, match="cannot be read: No such file"):
        load_public_key(tmp_path / "none.pem")
    with pytest.raises(JobError, match=r"^--sign .*/none\.pem: cannot be read: No such file"):
        load_private_key(tmp_path / "none.pem")


def test_a_job_without_results_has_no_bundle(in_folder: Published) -> None:
    with pytest.raises(JobError, match=r"^other: has no finished stage in the store .*/store$"):
        write_bundle(
            in_folder.store, "other", Path("other.tar"), reports={}, has_weights=False, key=None
        )
    assert not Path("other.tar").exists()


def test_a_bundle_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"^.*/none\.tar: cannot be read: No such file"):
        check_bundle(tmp_path / "none.tar")


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (b"{", b"[", "is not a list of digests"),
        (b'"schema_version": 1', b'"schema_version": 2', "is of another release"),
    ],
)
def test_digests_that_this_release_does_not_know_are_refused(
    in_folder: Published, old: bytes, new: bytes, fault: str
) -> None:
    path = rewritten(
        write(in_folder, is_signed=False),
        lambda all_: [(all_[0][0], all_[0][1].replace(old, new, 1)), *all_[1:]],
    )
    with pytest.raises(IntegrityError, match=rf"^changed\.tar: digests\.json {fault}$"):
        check_bundle(path)
