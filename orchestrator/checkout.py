"""The git checkout that code runs from: its commit, and a patch of the local changes.

Reads the checkout and changes nothing in it.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

GIT_TIMEOUT_S = 10.0


def find_commit(root: Path) -> str | None:
    """Return the commit that is checked out in `root`.

    None unless `root` is the top folder of a git checkout: an environment inside another checkout
    is not a part of it.
    """
    top = run_git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(os.fsdecode(top.rstrip(b"\n"))).resolve() != root.resolve():
        return None
    commit = run_git(root, "rev-parse", "--verify", "HEAD")
    return commit.decode().strip() if commit is not None else None


def has_changes(root: Path, folders: Sequence[str]) -> bool | None:
    """Whether files of `folders` differ from the commit, or are not in it. None if git fails."""
    changes = run_git(root, "status", "--porcelain", "--", *folders)
    return None if changes is None else changes != b""


def make_patch(root: Path, folders: Sequence[str]) -> bytes | None:
    """Return what `git apply` needs to turn the commit's `folders` into their present state.

    It includes new Python files, and other new files only if they were added. It includes no file
    that git ignores. Returns None if git fails.
    """
    added = run_git(root, "ls-files", "-z", "--", *folders)
    with tempfile.TemporaryDirectory(prefix="orchestrator-patch-") as folder:
        # An index of its own: the user's index, and what is staged in it, stay as they are.
        index = str(Path(folder) / "index")
        if added is None or run_git(root, "read-tree", "HEAD", index=index) is None:
            return None
        new = run_git(root, "ls-files", "-zo", "--exclude-standard", "--", *folders, index=index)
        if new is None:
            return None
        known = set(added.split(b"\0"))
        names = [name for name in new.split(b"\0") if name.endswith(b".py") or name in known]
        paths = b"\0".join(name for name in names if name)
        if paths and run_git(root, *_ADD, index=index, stdin=paths) is None:
            return None
        # Exits with 1 if files differ, so its result is not used. Without it, git would report
        # files that are equal.
        run_git(root, "update-index", "-q", "--refresh", index=index)
        return run_git(root, *_DIFF, "--", *folders, index=index)


_ADD = ("add", "--intent-to-add", "--pathspec-from-file=-", "--pathspec-file-nul")
_DIFF = ("diff-index", "--patch", "--binary", "--full-index", "--no-renames", "--no-color", "HEAD")


_GIT_OPTIONS = ("--literal-pathspecs", "--no-optional-locks")
"""Otherwise `git status` writes what it found to the user's index, and a command that the user runs
meanwhile fails because the index is locked."""


def run_git(
    root: Path, *arguments: str, index: str | None = None, stdin: bytes | None = None
) -> bytes | None:
    """Return what git prints; None without git, outside a checkout, or where git refuses the
    folder."""
    try:
        done = subprocess.run(  # noqa: S603
            ["git", "-C", str(root), *_GIT_OPTIONS, *arguments],  # noqa: S607
            capture_output=True,
            check=True,
            timeout=GIT_TIMEOUT_S,
            input=stdin or b"",
            env={**os.environ, "GIT_INDEX_FILE": index} if index else None,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
