"""A large tree is walked once, and again when a folder below it changes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipelines.fingerprint import CONTENT_LIMIT_BYTES
from pipelines.imagenet import layouts, listing
from pipelines.imagenet.listing import list_files

YEAR_S = 365 * 86400


def put(path: Path, size: int) -> None:
    """A file of `size` bytes that takes no disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)


def age(root: Path) -> None:
    """As if no folder had changed for a while."""
    for folder in (root, *(path for path in root.rglob("*") if path.is_dir())):
        os.utime(folder, (folder.stat().st_atime, folder.stat().st_mtime - YEAR_S))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """More than is hashed byte by byte, in two classes."""
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            put(tmp_path / "data" / split / name / "a.jpg", CONTENT_LIMIT_BYTES)
    age(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Each folder that is walked from here on."""
    walked: list[str] = []
    walk = listing._walk

    def counted(root: Path, top: str) -> listing.Listing:
        walked.append(top)
        return walk(root, top)

    monkeypatch.setattr(listing, "_walk", counted)
    return walked


def test_an_unchanged_tree_is_not_walked_again(root: Path, walks: list[str]) -> None:
    first = layouts.fingerprint(str(root), num_classes=2)
    assert layouts.fingerprint(str(root), num_classes=2) == first
    images = layouts.open_images(str(root))
    assert images.source("train", ("cat", "dog")).names == ("train/cat/a.jpg", "train/dog/a.jpg")
    assert walks == ["train", "val"]


@pytest.mark.parametrize("change", ["add", "delete", "rename", "new folder"])
def test_a_changed_tree_is_noticed(root: Path, walks: list[str], change: str) -> None:
    before = layouts.fingerprint(str(root), num_classes=2)
    folder = root / "train/cat"
    match change:
        case "add":
            put(folder / "b.jpg", 1)
        case "delete":
            put(folder / "b.jpg", 1)
            (folder / "a.jpg").unlink()
        case "rename":
            (folder / "a.jpg").rename(folder / "c.jpg")
        case "new folder":
            put(folder / "more/a.jpg", 1)
    assert layouts.fingerprint(str(root), num_classes=2) != before
    assert walks == ["train", "val", "train"]


def test_a_tree_that_has_just_changed_is_not_remembered(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second change in the same tick of the file system's clock would go unnoticed."""
    monkeypatch.setattr(listing, "SETTLED_S", 3600)
    put(root / "train/cat/b.jpg", 1)
    list_files(root, "train")
    assert not (root / ".orchestrator").exists()


def test_a_small_tree_is_walked_each_time(tmp_path: Path) -> None:
    put(tmp_path / "train/cat/a.jpg", 1)
    age(tmp_path)
    list_files(tmp_path, "train")
    assert not (tmp_path / ".orchestrator").exists()


def test_data_that_may_not_be_written_are_walked_each_time(root: Path, walks: list[str]) -> None:
    (root / ".orchestrator").write_text("no folder can be made here")
    first = list_files(root, "train")
    assert list_files(root, "train") == first
    assert walks == ["train", "train"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"version": 0}', '{"version": 1, "paths": []}'])
def test_a_damaged_memory_is_passed_over(root: Path, content: str) -> None:
    whole = list_files(root, "train")
    (root / ".orchestrator/files-train.json").write_text(content)
    assert list_files(root, "train") == whole
