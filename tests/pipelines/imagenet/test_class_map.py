"""Class maps: every form of label, and every fault with its line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.errors import DataError
from pipelines.imagenet.layouts import fingerprint, load_classes, open_images
from tests.pipelines.data.foreign_user import as_foreign_user, open_folder

NAMED = "images/a.jpg\tcat\nimages/b c.jpg\tdog\nimages/d.jpg\tcat\n"


def write(root: Path, train: str = NAMED, val: str = NAMED, classes: str | None = None) -> str:
    (root / "images").mkdir(exist_ok=True)
    for name in ("a.jpg", "b c.jpg", "d.jpg"):
        (root / "images" / name).write_bytes(name.encode())
    (root / "train_map.txt").write_text(train, encoding="utf-8")
    (root / "val_map.txt").write_text(val, encoding="utf-8")
    if classes is not None:
        (root / "classes.txt").write_text(classes, encoding="utf-8")
    return str(root)


def test_class_names_are_sorted_and_paths_may_have_spaces(tmp_path: Path) -> None:
    images = open_images(write(tmp_path))
    assert load_classes(images, num_classes=2) == ("cat", "dog")
    source = images.source("train", ("cat", "dog"))
    assert source.names == ("images/a.jpg", "images/b c.jpg", "images/d.jpg")
    assert source.labels == (0, 1, 0)
    assert source.read(1) == b"b c.jpg"


def test_numeric_labels_are_in_numeric_order(tmp_path: Path) -> None:
    lines = "a.jpg 10\nb.jpg 9\nc.jpg 100\n"
    images = open_images(write(tmp_path, lines, lines))
    assert load_classes(images, num_classes=3) == ("9", "10", "100")
    assert images.source("val", ("9", "10", "100")).labels == (1, 0, 2)


def test_numeric_labels_index_the_list_of_classes(tmp_path: Path) -> None:
    lines = "a.jpg 1\nb.jpg 0\nc.jpg dog\n"
    images = open_images(write(tmp_path, lines, lines, "zebra\ndog\n"))
    assert load_classes(images, num_classes=2) == ("zebra", "dog")
    assert images.source("val", ("zebra", "dog")).labels == (1, 0, 1)


def test_paths_may_be_relative_to_the_folder_of_the_split(tmp_path: Path) -> None:
    """Paths as in the repositories of Swin and CAT."""
    (tmp_path / "val/n01").mkdir(parents=True)
    (tmp_path / "val/n01/x.jpg").write_bytes(b"x")
    source = open_images(write(tmp_path, val="n01/x.jpg\t0\nn01/y.jpg\t1\n")).source(
        "val", ("0", "1")
    )
    assert source.names == ("val/n01/x.jpg", "val/n01/y.jpg")
    assert source.read(0) == b"x"
    with pytest.raises(OSError, match=r"n01/y\.jpg"):  # a missing image counts as broken
        source.read(1)


FAULTS = {
    "no label": (
        "a.jpg\n",
        None,
        r"train_map\.txt:1: 'a\.jpg' has no label; write `path<TAB>label`",
    ),
    "no label after a tab": ("a.jpg x\t\n", None, r"train_map\.txt:1: .* has no label"),
    "twice": (
        "a.jpg 0\nb.jpg 1\n\na.jpg 1\n",
        None,
        r"train_map\.txt:4: duplicate path a\.jpg, first in line 1",
    ),
    "outside": (
        "../a.jpg 0\n",
        None,
        r"train_map\.txt:1: \.\./a\.jpg is not a path below the data folder",
    ),
    "absolute": (
        "/a.jpg 0\n",
        None,
        r"train_map\.txt:1: /a\.jpg is not a path below the data folder",
    ),
    "empty": ("\n", None, r"train_map\.txt: lists no images; write a line"),
    "unknown class": (
        "a.jpg cow\n",
        "cat\ndog\n",
        r"train_map\.txt:1: class 'cow' is not in classes\.txt",
    ),
    "out of range": (
        "a.jpg 2\n",
        "cat\ndog\n",
        r"train_map\.txt:1: label 2 is out of range: .* classes 0 to 1",
    ),
    "negative": ("a.jpg -1\n", "cat\ndog\n", r"train_map\.txt:1: label -1 is out of range"),
    "class without images": (
        "a.jpg cat\n",
        "cat\ndog\ncow\n",
        r"different classes; only in train: none; only in val: dog",
    ),
    "class twice": (
        NAMED,
        "cat\ndog\ncat\n",
        r"classes\.txt:3: duplicate class 'cat', first in line 1",
    ),
    "one class": ("a.jpg cat\n", None, r"different classes"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_reported_with_their_line(tmp_path: Path, name: str) -> None:
    train, classes, text = FAULTS[name]
    with pytest.raises(DataError, match=text):
        fingerprint(write(tmp_path, train, classes=classes), num_classes=None)


def test_all_faults_are_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        fingerprint(write(tmp_path, "".join(f"{i}.jpg\n" for i in range(12))), num_classes=None)
    assert str(caught.value).count("has no label") == 10
    assert str(caught.value).endswith("\nand 2 more")


def test_missing_map_is_reported(tmp_path: Path) -> None:
    root = write(tmp_path)
    (tmp_path / "val_map.txt").unlink()
    with pytest.raises(DataError, match=r"val_map\.txt: missing; write one line `path<TAB>label`"):
        fingerprint(root, num_classes=None)


def test_single_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"holds only one class, cat; a classifier needs two or more"
    ):
        fingerprint(write(tmp_path, "a.jpg cat\n", "a.jpg cat\n"), num_classes=None)


def test_classes_that_change_after_they_were_read_are_named(tmp_path: Path) -> None:
    lines = "images/a.jpg 0\nimages/d.jpg 1\n"
    images = open_images(write(tmp_path, lines, lines, "cat\ndog\n"))
    classes = load_classes(images, num_classes=2)
    (tmp_path / "classes.txt").write_text("cat\ncow\n")
    with pytest.raises(
        DataError,
        match=r"train_map\.txt: classes without an image: dog; unknown classes: cow$",
    ):
        images.source("train", classes)


def test_fingerprint_depends_on_labels_and_content(tmp_path: Path) -> None:
    root = write(tmp_path)
    before = fingerprint(root, num_classes=2)
    assert fingerprint(root, num_classes=2) == before
    write(tmp_path, train=NAMED.replace("d.jpg\tcat", "d.jpg\tdog"))
    relabelled = fingerprint(root, num_classes=2)
    write(tmp_path)
    (tmp_path / "images/a.jpg").write_bytes(b"A.jpg")
    assert len({before, relabelled, fingerprint(root, num_classes=2)}) == 3


def test_first_existing_image_decides_the_root_of_paths(tmp_path: Path) -> None:
    """The first line does not decide, because its image may be missing."""
    (tmp_path / "val/n01").mkdir(parents=True)
    (tmp_path / "val/n01/y.jpg").write_bytes(b"y")
    source = open_images(write(tmp_path, val="n01/x.jpg\t0\nn01/y.jpg\t1\n")).source(
        "val", ("0", "1")
    )
    assert source.read(1) == b"y"


def test_plan_reports_a_class_map_without_images(tmp_path: Path) -> None:
    lines = "gone/a.jpg 0\ngone/b.jpg 1\n"
    text = (
        r"train_map\.txt: none of its 2 images exists below .* or below .*/train: "
        r"gone/a\.jpg, gone/b"
    )
    with pytest.raises(DataError, match=text):
        fingerprint(write(tmp_path, train=lines, val=lines), num_classes=None)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_maps_and_classes_may_have_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    root = write(
        tmp_path,
        "images/a.jpg kočka\nimages/d.jpg dog\n",
        "images/a.jpg 0\nimages/d.jpg 1\n",
        "kočka\ndog\n",
    )
    before = fingerprint(root, num_classes=2)
    for path in tmp_path.glob("*.txt"):
        path.write_bytes(path.read_text(encoding="utf-8").encode(encoding))
    assert fingerprint(root, num_classes=2) == before
    assert load_classes(open_images(root), num_classes=2) == ("kočka", "dog")


@pytest.mark.parametrize("name", ["train_map.txt", "classes.txt"])
def test_map_that_is_not_utf8_is_reported_with_its_line(tmp_path: Path, name: str) -> None:
    root = write(
        tmp_path,
        "images/a.jpg cat\nimages/d.jpg dog\n",
        "images/a.jpg 0\nimages/d.jpg 1\n",
        "cat\ndog\n",
    )
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes() + b"caf\xe9\n")
    with pytest.raises(
        DataError, match=rf"{name}:3: not UTF-8 text: .* 0xe9; save the file as UTF-8"
    ):
        fingerprint(root, num_classes=None)


def test_impossible_path_is_named(tmp_path: Path) -> None:
    lines = f"images/a.jpg cat\n{'x' * 300}.jpg dog\n"
    with pytest.raises(DataError, match=r"xxx\.jpg: cannot be read: File name too long"):
        fingerprint(write(tmp_path, lines, lines), num_classes=None)


@pytest.mark.parametrize("name", ["train_map.txt", "classes.txt"])
def test_broken_link_is_not_treated_as_a_missing_file(tmp_path: Path, name: str) -> None:
    root = write(
        tmp_path,
        "images/a.jpg cat\nimages/d.jpg dog\n",
        "images/a.jpg 0\nimages/d.jpg 1\n",
        "cat\ndog\n",
    )
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("gone")
    with pytest.raises(
        DataError, match=rf"{name}: cannot be read: a symbolic link to gone, which does not exist"
    ):
        fingerprint(root, num_classes=None)


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user")
def test_unreadable_folder_is_named_in_every_layout() -> None:
    with open_folder() as folder:
        (folder / "data").mkdir(mode=0o700)
        said = as_foreign_user(lambda: fingerprint(str(folder / "data"), num_classes=None))
        assert said == f"DataError: {folder}/data/index.json: cannot be read: Permission denied"
        (folder / "data").chmod(0o755)
        write(folder / "data", "a/x.jpg 0\na/y.jpg 1\n", "a/x.jpg 0\na/y.jpg 1\n")
        (folder / "data/a").mkdir(mode=0o700)
        said = as_foreign_user(lambda: fingerprint(str(folder / "data"), num_classes=None))
        assert said == f"DataError: {folder}/data/a/x.jpg: cannot be read: Permission denied"
