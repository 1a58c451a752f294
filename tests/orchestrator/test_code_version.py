"""The version of the code: a digest of its files, and the commit in a checkout."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from orchestrator import code_version as module
from orchestrator.code_version import (
    PACKAGES,
    CodeVersion,
    code_patch,
    code_sha256,
    code_version,
)


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with packages of one file each, which this process takes for its own code."""
    for name in PACKAGES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"name = {name!r}\n")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    _forget()
    return tmp_path


def _forget() -> None:
    code_sha256.cache_clear()
    code_version.cache_clear()
    module._changes.cache_clear()


@pytest.fixture(autouse=True)
def _fresh() -> object:
    yield
    _forget()


def _git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def _version() -> CodeVersion:
    _forget()
    return code_version()


def _commit(folder: Path) -> None:
    _git(folder, "init", "--quiet")
    _git(folder, "add", ".")
    _git(folder, "commit", "--quiet", "--message", "first")


def test_the_digest_follows_content_and_names(packages: Path) -> None:
    digests = [_version().sha256]
    (packages / "pipelines" / "__init__.py").write_text("changed = True\n")
    digests.append(_version().sha256)
    (packages / "pipelines" / "__init__.py").rename(packages / "pipelines" / "other.py")
    digests.append(_version().sha256)
    assert len(set(digests)) == 3


def test_other_files_are_not_in_the_digest(packages: Path) -> None:
    before = _version()
    (packages / "setup.py").write_text("")
    (packages / "pipelines" / "cache.pyc").write_bytes(b"\0")
    assert _version() == before


def test_the_commit_is_none_outside_a_checkout(packages: Path) -> None:
    assert _version().commit is None
    assert _version().is_dirty is None


def test_a_checkout_has_its_commit_and_whether_it_is_dirty(packages: Path) -> None:
    _commit(packages)
    clean = _version()
    (packages / "notes.txt").write_text("not code")
    assert _version() == clean
    (packages / "orchestrator" / "new.py").write_text("")
    dirty = _version()
    assert clean.commit == dirty.commit == _git(packages, "rev-parse", "HEAD")
    assert clean.is_dirty is False
    assert dirty.is_dirty is True


def test_the_users_index_stays_as_it_is(packages: Path) -> None:
    _commit(packages)
    os.utime(packages / "orchestrator" / "__init__.py", (1, 1))  # git would note the new time
    index = packages / ".git" / "index"
    before = index.read_bytes()
    assert _version().is_dirty is False
    assert index.read_bytes() == before


def test_changes_are_unknown_if_git_fails(packages: Path) -> None:
    _commit(packages)
    (packages / ".git" / "index").write_bytes(b"damaged")
    version = _version()
    assert version.commit is not None
    assert version.is_dirty is None
    assert version.patch is None


def test_an_environment_inside_another_checkout_has_no_commit(
    packages: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    _commit(packages)
    inside = packages / "site-packages"
    inside.mkdir()
    for name in PACKAGES:
        (packages / name).rename(inside / name)
    monkeypatch.setattr(module, "ROOT", inside)
    assert _version().commit is None


def test_commit_and_patch_give_the_code_that_ran(
    packages: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    (packages / "cat_model" / "old.py").write_text("")
    _commit(packages)
    (packages / "orchestrator" / "__init__.py").write_text("changed = True\r\n")
    (packages / "orchestrator" / "n\u00e9w [1].py").write_text("new = 1\n")
    (packages / "cat_model" / "old.py").unlink()
    ran, patch = _version(), code_patch()
    assert ran.patch is not None
    assert patch is not None
    assert ran.patch.size == len(patch)

    clone = tmp_path_factory.mktemp("clone")
    _git(clone, "clone", "--quiet", str(packages), ".")
    subprocess.run(["git", "apply"], cwd=clone, input=patch, check=True)
    monkeypatch.setattr(module, "ROOT", clone)
    assert _version().sha256 == ran.sha256


def test_a_patch_has_only_the_code_that_ran(packages: Path) -> None:
    (packages / ".gitignore").write_text("ignored.py\n")
    _commit(packages)
    assert _version().patch is None
    for name in ("notes.txt", "orchestrator/untracked.bin", "orchestrator/ignored.py"):
        (packages / name).write_text("not code")
    (packages / "orchestrator" / "page.j2").write_text("added")
    (packages / "orchestrator" / "new.py").write_text("new")
    _git(packages, "add", "orchestrator/page.j2")
    _version()
    names = re.findall(r"^diff --git a/(\S+)", (code_patch() or b"").decode(), re.MULTILINE)
    assert names == ["orchestrator/new.py", "orchestrator/page.j2"]
    assert _git(packages, "diff", "--cached", "--name-only") == "orchestrator/page.j2"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("x" * 5_000_001, "it is larger than 5 MB"),
        ("token = 'ghp_" + "a1" * 18 + "'", "it contains what looks like a GitHub token"),
    ],
    ids=["large", "secret"],
)
def test_a_patch_that_must_not_be_kept_is_only_described(
    packages: Path, content: str, why: str
) -> None:
    _commit(packages)
    (packages / "pipelines" / "new.py").write_text(content)
    version = _version()
    assert version.patch is not None
    assert version.patch.left_out == why
    assert version.patch.size > len(content)
    assert code_patch() is None
