"""Digests of files are remembered, and every change of a file is detected."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.errors import DataError
from pipelines.data import digests, remembered
from pipelines.data.digests import digest_of_file, digests_of_files
from tests.pipelines.data.foreign_user import as_foreign_user, open_folder

NAMES = ["a.jpg", "sub/b.jpg"]


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return tmp_path / "caches/orchestrator/remembered"


@pytest.fixture
def root(tmp_path: Path, caches: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two files that are old enough to be remembered."""
    monkeypatch.setattr(remembered, "SETTLED_S", -3600)
    (tmp_path / "data/sub").mkdir(parents=True)
    for name in NAMES:
        (tmp_path / "data" / name).write_text(name)
    return tmp_path / "data"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read from now on."""
    read: list[str] = []

    def counted(path: Path) -> str:
        read.append(path.name)
        return digest_of_file(path)

    monkeypatch.setattr(digests, "digest_of_file", counted)
    return read


def test_unchanged_file_is_read_once(root: Path, reads: list[str]) -> None:
    first = digests_of_files(root, NAMES)
    assert digests_of_files(root, NAMES) == first == [digest_of_file(root / name) for name in NAMES]
    assert digests_of_files(root, NAMES[1:]) == first[1:]
    assert reads == ["a.jpg", "b.jpg"]


def _edit_in_place(path: Path) -> None:
    """Changes one byte; the size and the modification time stay the same."""
    before = path.stat()
    path.write_text("A" + path.read_text()[1:])
    _await_tick(path, before)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _await_tick(path: Path, before: os.stat_result) -> None:
    """Waits until the clock of the file system has advanced."""
    while path.stat().st_ctime_ns == before.st_ctime_ns:
        os.utime(path)


def _append(path: Path) -> None:
    path.write_text(path.read_text() + "more")


def _replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_text(path.read_text()[::-1])
    before = path.stat()
    other.replace(path)
    _await_tick(path, before)


@pytest.mark.parametrize("change", [_edit_in_place, _append, _replace])
def test_only_a_changed_file_is_read_again(
    root: Path, reads: list[str], change: Callable[[Path], None]
) -> None:
    before = digests_of_files(root, NAMES)
    change(root / "a.jpg")
    after = digests_of_files(root, NAMES)
    assert after[0] != before[0]
    assert after[1] == before[1]
    assert reads == ["a.jpg", "b.jpg", "a.jpg"]


def test_recently_changed_file_is_not_remembered(
    root: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second change in the same tick of the file system's clock would not be detected."""
    monkeypatch.setattr(remembered, "SETTLED_S", 3600)
    for _ in range(2):
        digests_of_files(root, ["a.jpg"])
    assert reads == ["a.jpg", "a.jpg"]
    assert not (root / ".orchestrator").exists()


def test_digests_of_read_only_data_are_remembered_in_the_cache(
    root: Path, caches: Path, reads: list[str]
) -> None:
    (root / ".orchestrator").write_text("no folder can be made here")
    first = digests_of_files(root, NAMES)
    assert digests_of_files(root, NAMES) == first
    assert reads == ["a.jpg", "b.jpg"]
    assert len(list(caches.glob("*/digests.json"))) == 1


def test_outdated_document_does_not_hide_the_cache(root: Path, reads: list[str]) -> None:
    digests_of_files(root, NAMES)
    _append(root / "a.jpg")
    outdated = (root / ".orchestrator/digests.json").read_text()
    digests_of_files(root, NAMES)
    (root / ".orchestrator/digests.json").rename(root / "kept")
    (root / ".orchestrator").rmdir()
    (root / ".orchestrator").write_text("no folder can be made here")
    digests_of_files(root, NAMES)  # into the cache
    (root / ".orchestrator").unlink()
    (root / ".orchestrator").mkdir()
    (root / ".orchestrator/digests.json").write_text(outdated)
    reads.clear()
    digests_of_files(root, NAMES)
    assert reads == []


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"version": 1}',
        '{"version": 0, "files": {}}',
        '{"version": 1, "files": {"a.jpg": [1]}}',
    ],
)
def test_damaged_document_is_ignored(root: Path, content: str) -> None:
    whole = digests_of_files(root, NAMES)
    (root / ".orchestrator/digests.json").write_text(content)
    assert digests_of_files(root, NAMES) == whole
    assert json.loads((root / ".orchestrator/digests.json").read_text())["files"].keys() == set(
        NAMES
    )


def test_files_are_read_each_time_if_nothing_can_be_stored(
    root: Path, caches: Path, reads: list[str]
) -> None:
    caches.parent.parent.write_text("no folder can be made here")
    (root / ".orchestrator").write_text("nor here")
    assert digests_of_files(root, NAMES) == digests_of_files(root, NAMES)
    assert len(reads) == 4


def test_missing_file_is_named(root: Path) -> None:
    with pytest.raises(
        DataError, match=r"data/gone\.jpg: cannot be read: No such file or directory"
    ):
        digests_of_files(root, ["gone.jpg"])


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user")
def test_read_only_data_are_remembered_for_a_user_without_a_home(
    reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(remembered, "SETTLED_S", -3600)
    with open_folder() as folder:
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        (folder / "data").mkdir(mode=0o755)
        (folder / "data/a.jpg").write_text("a")

        def twice() -> str:
            for _ in range(2):
                digests_of_files(folder / "data", ["a.jpg"])
            return str(reads)

        assert as_foreign_user(twice) == "['a.jpg']"
        assert not (folder / "data/.orchestrator").exists()
