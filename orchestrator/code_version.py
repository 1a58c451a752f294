"""Which code ran: a digest of its source files, and the git commit where there is one."""

from __future__ import annotations

import hashlib
import subprocess
from functools import cache
from pathlib import Path

from orchestrator.artifact import Value

PACKAGES = ("orchestrator", "pipelines", "cat_model")
"""What this project installs, side by side in one folder."""
ROOT = Path(__file__).parents[1]
GIT_TIMEOUT_S = 10.0


class CodeVersion(Value):
    """The code of one process."""

    sha256: str
    """The digest of the Python files of PACKAGES, with their paths."""
    commit: str | None = None
    """The commit that is checked out; None outside a git checkout, as in a submitted job."""
    is_dirty: bool | None = None
    """Whether files of PACKAGES differ from the commit; None without a commit."""


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
    commit = _git("rev-parse", "--verify", "HEAD") if _is_checkout() else None
    if commit is None:
        return CodeVersion(sha256=code_sha256())
    changed = _git("status", "--porcelain", "--", *PACKAGES)
    return CodeVersion(sha256=code_sha256(), commit=commit, is_dirty=changed != "")


def _is_checkout() -> bool:
    """Whether the packages are in the top folder of a git checkout, not in an environment inside
    another one."""
    top = _git("rev-parse", "--show-toplevel")
    return top is not None and Path(top).resolve() == ROOT.resolve()


def _git(*arguments: str) -> str | None:
    """What git prints; None without git, outside a checkout, or where git refuses the folder."""
    try:
        done = subprocess.run(  # noqa: S603
            ["git", "-C", str(ROOT), *arguments],  # noqa: S607
            capture_output=True,
            text=True,
            check=True,
            timeout=GIT_TIMEOUT_S,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
