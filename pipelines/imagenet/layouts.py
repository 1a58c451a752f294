"""Opens the images at a location; the layout is recognised by the names there. See docs/data.md."""

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
    """The images of a stage's `data`, in the first of these layouts that matches; nothing is read
    yet.

    - shards, in `s3://BUCKET/PREFIX` or a folder: index.json, train/*.tar or train-*.tar, and
      likewise for val
    - class map, in a folder: train_map.txt, val_map.txt, and classes.txt if it names the classes
    - folders, in a folder: train/<class>/*, val/<class>/*

    `cache_gib` limits the disk space for shards read from S3; callers that read no images need no
    limit.
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
    """The images of `split`; raises DataError if one of `classes` has no image, or another class
    has one."""
    return open_images(data, cache_gib=cache_gib).source(split, classes)


def load_classes(images: ImageFiles, *, num_classes: int | None) -> tuple[str, ...]:
    """Names of the classes, which train and val share.

    Raises DataError for missing or empty splits, for splits with different classes, for a number of
    classes other than `num_classes`, and for fewer than two classes.
    """
    train, val = images.classes_in("train"), images.classes_in("val")
    if train != val:
        only_train, only_val = sorted(set(train) - set(val)), sorted(set(val) - set(train))
        raise DataError(
            f"{images.location}: train and val have different classes; only in train: "
            f"{first_named(only_train)}; only in val: {first_named(only_val)}; give both splits "
            "the same classes"
        )
    _check_count(images, train, num_classes)
    return train


def load_val_classes(images: ImageFiles, *, num_classes: int | None) -> tuple[str, ...]:
    """Names of the classes in val, independent of train; raises DataError like `load_classes`."""
    classes = images.classes_in("val")
    _check_count(images, classes, num_classes)
    return classes


def fingerprint(data: str, *, num_classes: int | None) -> str:
    """Digest of both splits and of the class list; raises DataError like `load_classes`."""
    images = open_images(data)
    return digest_of([load_classes(images, num_classes=num_classes), images.digest(SPLITS)])


def fingerprint_val(data: str, *, num_classes: int | None) -> str:
    """Digest of val only, which is all that an evaluation reads; raises DataError like
    `load_classes`."""
    images = open_images(data)
    return digest_of([load_val_classes(images, num_classes=num_classes), images.digest(["val"])])


def _holds_shards(root: Path) -> bool:
    if any(name.endswith(".tar") and split_of(name) for name, _ in _entries(root)):
        return True
    return any(_is_shard_folder(root / split) for split in SPLITS) or _is_bare_index(root)


def _is_shard_folder(folder: Path) -> bool:
    """Whether a folder holds tar files but no folders: a root of class folders may also hold the
    tar files that they came from."""
    entries = _entries(folder)
    return any(name.endswith(".tar") for name, _ in entries) and not any(
        is_folder for _, is_folder in entries
    )


def _is_bare_index(root: Path) -> bool:
    """Whether there is an index without its shards, which is then reported."""
    return (root / INDEX_NAME).exists() and not any((root / split).exists() for split in SPLITS)


def _entries(folder: Path) -> list[tuple[str, bool]]:
    """Names in `folder` that are not hidden, and whether each is a folder; empty if it cannot be
    read."""
    try:
        with os.scandir(folder) as entries:
            return [
                (entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith(".")
            ]
    except OSError:  # the code that reads the folder reports the error
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
