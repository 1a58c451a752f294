"""Which code ran: a digest of its source files, and in a git checkout the commit and a patch of the
local changes."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from orchestrator.artifact import Sha256, Value
from orchestrator.checkout import find_commit, has_changes, make_patch
from orchestrator.credentials import find_credentials

PACKAGES = ("orchestrator", "pipelines", "cat_model")
"""What this project installs, side by side in one folder."""
ROOT = Path(__file__).parents[1]
MAX_PATCH_BYTES = 5_000_000
"""A larger patch is not kept: it has data, and each run would store it."""


class Patch(Value):
    """A patch of the local changes of a checkout."""

    sha256: Sha256
    size: int
    left_out: str | None = None
    """Why the store has no copy of it; None if it has one."""


class CodeVersion(Value):
    """The code of one process."""

    sha256: str
    """The digest of the Python files of PACKAGES, with their paths."""
    commit: str | None = None
    """The commit that is checked out; None outside a git checkout, as in a submitted job."""
    is_dirty: bool | None = None
    """Whether files of PACKAGES differ from the commit; None without a commit, or if git fails."""
    patch: Patch | None = None
    """What turns PACKAGES of the commit into the code that ran; None without local changes."""


@cache
def code_sha256() -> str:
    """Digest of the source files of this process. Takes some 20 ms."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.relative_to(ROOT).as_posix()} {content}\n".encode())
    return digest.hexdigest()


@cache
def code_version() -> CodeVersion:
    """The version of the code of this process."""
    commit = find_commit(ROOT)
    if commit is None:
        return CodeVersion(sha256=code_sha256())
    is_dirty = has_changes(ROOT, PACKAGES)
    content = _changes() if is_dirty else None
    return CodeVersion(
        sha256=code_sha256(),
        commit=commit,
        is_dirty=is_dirty,
        patch=_described(content) if content else None,
    )


def code_patch() -> bytes | None:
    """The patch that belongs to `code_version`; None if there is none or if it is left out."""
    patch = code_version().patch
    return _changes() if patch is not None and patch.left_out is None else None


@cache
def _changes() -> bytes | None:
    return make_patch(ROOT, PACKAGES)


def _described(content: bytes) -> Patch:
    return Patch(
        sha256=hashlib.sha256(content).hexdigest(), size=len(content), left_out=_fault_of(content)
    )


def _fault_of(content: bytes) -> str | None:
    """Return why a patch is not stored, or None."""
    if len(content) > MAX_PATCH_BYTES:
        return f"it is larger than {MAX_PATCH_BYTES // 10**6} MB"
    credentials = find_credentials(content.decode(errors="replace"))
    return f"it contains what looks like {credentials[0].what}" if credentials else None
