"""What lies at a path -> its images: the layout is recognised by the names there. See
docs/data.md."""

from __future__ import annotations

import math
import os
from pathlib import Path

from orchestrator.artifact import digest_of
from orchestrator.errors import DataError
from pipelines.data.faults import data_errors, first_named
from pipelines.data.folder import data_location
from pipelines.data.s3 import is_remote
from pipelines.imagenet.class_map import ClassMap, map_name
from pipelines.imagenet.folders import Folders
from pipelines.imagenet.shard.files import Shards
from pipelines.imagenet.shard.index import INDEX_NAME
from pipelines.imagenet.shard.location import open_location, split_of
from pipelines.imagenet.source import SPLITS, ImageFiles, ImageSource, Split


def open_images(data: str, *, cache_gib: float = math.inf) -> ImageFiles:
    """The images of a stage's `data`, in the first of these layouts that its location has; nothing
    is read yet.

    `cache_gib` limits the disk that shards read from S3 may take; what reads no images needs none.

    | layout    | where                         | what is there |
    |-----------|-------------------------------|---------------|
    | shards    | `s3://BUCKET/PREFIX`, ROOT    | index.json, train/*.tar or train-*.tar, likewise
    val |
    | class map | ROOT                          | train_map.txt, val_map.txt; classes.txt where it
    names the classes |
    | folders   | ROOT                          | train/<class>/*, val/<class>/* |
    """
    location = data_location(data, "imagenet")
    with data_errors(location):
        if is_remote(location) or _holds_shards(Path(location)):
            return Shards(open_location(location), limit_bytes=cache_gib * 2**30)
        if any(os.path.lexists(Path(location) / map_name(split)) for split in SPLITS):
            return ClassMap(Path(location))
    return Folders(Path(location))


def open_source(
    data: str, split: Split, *, classes: tuple[str, ...], cache_gib: float = math.inf
) -> ImageSource:
    """The images of `split`; raises DataError where one of `classes` has none, or another class
    some."""
    return open_images(data, cache_gib=cache_gib).source(split, classes)


def load_classes(images: ImageFiles, *, num_classes: int | None) -> tuple[str, ...]:
    """Names of the classes, which train and val share.

    Raises DataError for splits that are missing, empty or of different classes, and for another
    number of classes than `num_classes`, or less than two.
    """
    train, val = images.classes_in("train"), images.classes_in("val")
    if train != val:
        only_train, only_val = sorted(set(train) - set(val)), sorted(set(val) - set(train))
        raise DataError(
            f"{images.location}: train and val have different classes; only in train: "
            f"{first_named(only_train)}; "
            f"only in val: {first_named(only_val)}"
        )
    _check_count(images, train, num_classes)
    return train


def load_val_classes(images: ImageFiles, *, num_classes: int | None) -> tuple[str, ...]:
    """Names of the classes in val, independent of train; raises DataError as `load_classes`
    does."""
    classes = images.classes_in("val")
    _check_count(images, classes, num_classes)
    return classes


def fingerprint(data: str, *, num_classes: int | None) -> str:
    """Digest of both splits and of the class list; raises DataError as `load_classes` does."""
    images = open_images(data)
    return digest_of([load_classes(images, num_classes=num_classes), images.digest(SPLITS)])


def fingerprint_val(data: str, *, num_classes: int | None) -> str:
    """Digest of val only, which is all that an evaluation reads; raises DataError as
    `load_classes` does."""
    images = open_images(data)
    return digest_of([load_val_classes(images, num_classes=num_classes), images.digest(["val"])])


def _holds_shards(root: Path) -> bool:
    if any(name.endswith(".tar") and split_of(name) for name, _ in _entries(root)):
        return True
    return any(_is_shard_folder(root / split) for split in SPLITS) or _is_bare_index(root)


def _is_shard_folder(folder: Path) -> bool:
    """Not a root of class folders, next to which the tar files may lie that they came from."""
    entries = _entries(folder)
    return any(name.endswith(".tar") for name, _ in entries) and not any(
        is_folder for _, is_folder in entries
    )


def _is_bare_index(root: Path) -> bool:
    """An index whose shards are gone, which is then reported."""
    return (root / INDEX_NAME).exists() and not any((root / split).exists() for split in SPLITS)


def _entries(folder: Path) -> list[tuple[str, bool]]:
    """Names in `folder` that are not hidden, and whether each is a folder; none where it cannot be
    read."""
    try:
        with os.scandir(folder) as entries:
            return [
                (entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith(".")
            ]
    except OSError:  # what reads the folder reports that
        return []


def _check_count(images: ImageFiles, classes: tuple[str, ...], num_classes: int | None) -> None:
    if num_classes not in (None, len(classes)):
        raise DataError(
            f"{images.location}: holds {len(classes)} classes, but num_classes is {num_classes}; "
            "correct num_classes or leave it out"
        )
    if len(classes) < 2:  # noqa: PLR2004
        raise DataError(
            f"{images.location}: holds only one class, {first_named(classes)}; a classifier needs "
            "two or more"
        )
