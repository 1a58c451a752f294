"""What is read from folders in ImageNet's layout before images are decoded, and how faults are
reported."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from orchestrator.errors import DataError
from pipelines.imagenet import layouts
from pipelines.imagenet.broken import BrokenImages
from pipelines.imagenet.folders import Folders, load_index
from pipelines.imagenet.layouts import load_classes, open_images


def fingerprint(root: Path, *, num_classes: int | None) -> str:
    return layouts.fingerprint(str(root), num_classes=num_classes)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            Image.new("RGB", (8, 8), "red").save(folder / "b.png")
            Image.new("RGB", (8, 8), "blue").save(folder / "a.JPEG")
    return tmp_path / "data"


def test_index_lists_images_by_class(root: Path) -> None:
    (root / "train/dog/notes.txt").write_text("not an image")
    (root / "train/dog/.hidden.png").write_text("not data")
    index = load_index(root, "train", load_classes(Folders(root), num_classes=2))
    assert index.classes == ("cat", "dog")
    assert index.paths == (
        "train/cat/a.JPEG",
        "train/cat/b.png",
        "train/dog/a.JPEG",
        "train/dog/b.png",
    )
    assert index.labels == (0, 0, 1, 1)


def test_fingerprint_depends_on_content_not_location(root: Path, tmp_path: Path) -> None:
    before = fingerprint(root, num_classes=None)
    shutil.copytree(root, tmp_path / "elsewhere")
    assert fingerprint(tmp_path / "elsewhere", num_classes=2) == before
    Image.new("RGB", (8, 8), "green").save(root / "val/cat/b.png")
    assert fingerprint(root, num_classes=None) != before


def test_missing_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere/train: the data folder is missing; .*train/"):
        fingerprint(tmp_path / "nowhere", num_classes=None)


def test_classes_of_one_split_only_are_named(root: Path) -> None:
    (root / "train/cat").rename(root / "train/lynx")
    with pytest.raises(
        DataError, match=r"different classes; only in train: lynx; only in val: cat"
    ):
        fingerprint(root, num_classes=None)


def test_class_count_must_match_the_job(root: Path) -> None:
    with pytest.raises(DataError, match=r"data: holds 2 classes, but num_classes is 1000"):
        fingerprint(root, num_classes=1000)


def test_images_next_to_class_folders_are_not_classes(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "train/a.png")
    with pytest.raises(
        DataError, match=r"train: holds no class folders; put the images in train/<class>/"
    ):
        load_classes(Folders(tmp_path), num_classes=None)


def test_empty_class_is_reported(root: Path) -> None:
    for path in (root / "val/dog").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"val/dog: the class folder holds no images"):
        load_index(root, "val", load_classes(Folders(root), num_classes=None))


def test_broken_images_count_once_and_the_first_ten_are_named(tmp_path: Path) -> None:
    broken = BrokenImages(tmp_path, limit=11)
    broken.add(f"train/{i:02d}.png" for i in range(11))
    broken.add(["train/00.png"])
    with pytest.raises(DataError) as caught:
        broken.add(["train/11.png"])
    assert "12 images cannot be decoded, but max_broken_images is 11" in str(caught.value)
    assert "train/00.png, " in str(caught.value)
    assert "train/09.png and 2 more" in str(caught.value)


def test_kind_imports_neither_torch_nor_timm() -> None:
    code = "import sys, pipelines.pretrain.kind; print({'torch', 'timm', 'ray'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"


def test_single_class_is_refused(root: Path) -> None:
    for split in ("train", "val"):
        shutil.rmtree(root / split / "dog")
    with pytest.raises(
        DataError, match=r"data: holds only one class, cat; a classifier needs two or more"
    ):
        fingerprint(root, num_classes=None)


def test_empty_split_is_reported(root: Path) -> None:
    shutil.rmtree(root / "val")
    (root / "val").mkdir()
    with pytest.raises(DataError, match=r"data/val: the data folder is empty"):
        fingerprint(root, num_classes=None)


def test_class_folders_are_ordered_by_name(root: Path) -> None:
    """`cat-big/` sorts before `cat/`."""
    shutil.copytree(root / "train/cat", root / "train/cat-big")
    index = Folders(root).source("train", Folders(root).classes_in("train"))
    assert index.classes == ("cat", "cat-big", "dog")
    assert index.paths[:3] == ("train/cat/a.JPEG", "train/cat/b.png", "train/cat-big/a.JPEG")


def test_tars_next_to_class_folders_are_not_shards(root: Path) -> None:
    before = Folders(root).source("train", ("cat", "dog"))
    (root / "train/n01440764.tar").write_bytes(b"")
    assert open_images(str(root)).source("train", ("cat", "dog")) == before
