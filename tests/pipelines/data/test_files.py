"""A large tree is walked once, and again when a folder below it changes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.errors import DataError
from pipelines.data import files, remembered
from pipelines.data.digests import CONTENT_LIMIT_BYTES
from pipelines.data.files import digest_of_folders, list_files
from pipelines.imagenet import layouts
from tests.pipelines.data.foreign_user import as_foreign_user, open_folder

YEAR_S = 365 * 86400


def put(path: Path, size: int) -> None:
    """A sparse file of `size` bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)


def age(root: Path) -> None:
    """Sets modification times as if no folder had changed recently."""
    for folder in (root, *(path for path in root.rglob("*") if path.is_dir())):
        os.utime(folder, (folder.stat().st_atime, folder.stat().st_mtime - YEAR_S))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree in two classes, larger than what is hashed byte by byte."""
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            put(tmp_path / "data" / split / name / "a.jpg", CONTENT_LIMIT_BYTES)
    age(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Folders that are walked from now on."""
    walked: list[str] = []
    walk = files._walk

    def counted(root: Path, top: str) -> files.Listing:
        walked.append(top)
        return walk(root, top)

    monkeypatch.setattr(files, "_walk", counted)
    return walked


def test_unchanged_tree_is_not_walked_again(root: Path, walks: list[str]) -> None:
    first = layouts.fingerprint(str(root), num_classes=2)
    assert layouts.fingerprint(str(root), num_classes=2) == first
    images = layouts.open_images(str(root))
    assert images.source("train", ("cat", "dog")).names == ("train/cat/a.jpg", "train/dog/a.jpg")
    assert walks == ["train", "val"]


@pytest.mark.parametrize("change", ["add", "delete", "rename", "new folder"])
def test_changed_tree_is_detected(root: Path, walks: list[str], change: str) -> None:
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


def test_recently_changed_tree_is_not_remembered(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second change in the same tick of the file system's clock would not be detected."""
    monkeypatch.setattr(remembered, "SETTLED_S", 3600)
    put(root / "train/cat/b.jpg", 1)
    list_files(root, "train")
    assert not (root / ".orchestrator").exists()


def test_small_tree_is_walked_each_time(tmp_path: Path) -> None:
    put(tmp_path / "train/cat/a.jpg", 1)
    age(tmp_path)
    list_files(tmp_path, "train")
    assert not (tmp_path / ".orchestrator").exists()


def test_read_only_data_are_remembered_in_the_cache(root: Path, walks: list[str]) -> None:
    (root / ".orchestrator").write_text("no folder can be made here")
    first = list_files(root, "train")
    assert list_files(root, "train") == first
    assert walks == ["train"]
    put(root / "train/cat/b.jpg", 1)
    assert len(list_files(root, "train").paths) == len(first.paths) + 1


def test_nested_folders_are_remembered_too(tmp_path: Path, walks: list[str]) -> None:
    put(tmp_path / "images/training/a.jpg", CONTENT_LIMIT_BYTES + 1)
    age(tmp_path)
    first = digest_of_folders(tmp_path, ["images/training"])
    assert digest_of_folders(tmp_path, ["images/training"]) == first
    assert walks == ["images/training"]


@pytest.mark.parametrize("name", [b"train/cat/caf\xe9.jpg", b"train/ca\xff/a.jpg"])
def test_names_that_are_not_utf8_are_reported(root: Path, name: bytes) -> None:
    put(root / os.fsdecode(name), 1)
    with pytest.raises(
        DataError,
        match=r"data/train: file names that are not UTF-8: .*\\x(e9|ff).*; rename these",
    ):
        layouts.fingerprint(str(root), num_classes=None)
    assert not (root / ".orchestrator/files-train.json").exists()


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _link_to_nothing(path: Path) -> None:
    path.symlink_to("gone.jpg")


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (_loop, "Too many levels of symbolic links"),
        (_link_to_nothing, r"a symbolic link to gone\.jpg, which does not exist"),
    ],
)
def test_broken_links_are_named(root: Path, make: Callable[[Path], None], why: str) -> None:
    make(root / "train/cat/b.jpg")
    with pytest.raises(DataError, match=rf"data/train/cat/b\.jpg: cannot be read: {why}"):
        list_files(root, "train")


@pytest.mark.parametrize("name", ["train", "."])
def test_broken_data_link_is_named_with_its_target(root: Path, name: str) -> None:
    path = (root / name).resolve()
    path.rename(root.parent / "elsewhere")
    path.symlink_to("unmounted")
    with pytest.raises(
        DataError,
        match=rf"/train: the data folder is missing: {path} is a symbolic link to unmounted;",
    ):
        list_files(root, "train")


def test_pipe_is_named_and_not_read(root: Path) -> None:
    os.mkfifo(root / "train/cat/b.jpg")
    with pytest.raises(
        DataError, match=r"train/cat/b\.jpg: neither a file nor a folder; remove it"
    ):
        list_files(root, "train")


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user")
def test_unreadable_folder_is_named() -> None:
    with open_folder() as folder:
        put(folder / "data/train/cat/a.jpg", 1)
        (folder / "data").chmod(0o700)
        said = as_foreign_user(lambda: str(list_files(folder / "data", "train")))
    assert said == f"DataError: {folder}/data/train: cannot be read: Permission denied"


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"version": 0}', '{"version": 1, "paths": []}']
)
def test_damaged_document_is_ignored(root: Path, content: str) -> None:
    whole = list_files(root, "train")
    (root / ".orchestrator/files-train.json").write_text(content)
    assert list_files(root, "train") == whole
