"""Reads a data set in ADE20K's layout: class names and pairs of image and label map. Does not
import torch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from orchestrator.artifact import digest_of
from orchestrator.errors import DataError
from pipelines.data.digests import digest_of_file
from pipelines.data.faults import data_errors, first_named
from pipelines.data.files import digest_of_folders
from pipelines.data.folder import data_folder, fingerprint_remote
from pipelines.data.image_files import BrokenImageError, upright_size
from pipelines.data.s3 import is_remote
from pipelines.data.text import check_names, load_text, parse_json
from pipelines.segmentation.label_maps import UNLABELED, read_label_map
from pipelines.segmentation.params import SegmentationParams

Split = Literal["training", "validation"]
LARGEST_NUM_CLASSES = 254
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Pairs:
    """The images of a split, all with the same suffix, and the folder of their label maps, which
    have the same names."""

    images_dir: Path
    labels_dir: Path
    names: tuple[str, ...]
    """File names without suffix, sorted."""
    suffix: str

    @property
    def image_paths(self) -> list[Path]:
        return [self.images_dir / (name + self.suffix) for name in self.names]

    def label_path(self, image_path: Path) -> Path:
        return self.labels_dir / (image_path.stem + ".png")


def fingerprint(params: SegmentationParams) -> str:
    """Digest of a stage's data. Raises DataError if the data is missing or does not match the
    params.

    Data in S3 is listed but not read. Its content is checked when the stage runs.
    """
    if is_remote(params.data):
        return fingerprint_remote(params.data, "ade20k", "training", "validation")
    root = data_folder(params.data, "ade20k")
    folders = digest_of_folders(
        root, ("images/training", "images/validation", "annotations/training")
    )
    labels = digest_of_folders(root, ("annotations/validation",))
    read_classes(root, params)
    return digest_of([folders, labels, digest_of_file(class_file(root))])


def fingerprint_val(params: SegmentationParams) -> str:
    """Digest of validation only, because an evaluation reads nothing else."""
    if is_remote(params.data):
        return fingerprint_remote(params.data, "ade20k", "validation")
    root = data_folder(params.data, "ade20k")
    digest = digest_of_folders(root, ("images/validation", "annotations/validation"))
    read_classes(root, params)
    return digest_of([digest, digest_of_file(class_file(root))])


def class_file(root: Path) -> Path:
    """The file of `root` that names the classes."""
    with data_errors(root):
        for name in READERS:
            if (root / name).is_file():
                return root / name
    raise DataError(
        f"{root}: no class names; add {' or '.join(READERS)} with a name for each pixel value from "
        "1"
    )


def read_classes(root: Path, params: SegmentationParams | None) -> tuple[str, ...]:
    """Names of the classes. Raises DataError unless they match `params`; None accepts any names."""
    path = class_file(root)
    try:
        classes = READERS[path.name](load_text(path))
    except (ValueError, RecursionError) as err:
        raise DataError(f"{path}: the class names cannot be read: {err}") from err
    if not 1 < len(classes) <= LARGEST_NUM_CLASSES:
        raise DataError(
            f"{path}: has {len(classes)} class names; a label map can hold 2 to "
            f"{LARGEST_NUM_CLASSES} classes"
        )
    if params is not None:
        params.check_classes(classes, path)
    return classes


def read_pairs(root: Path, split: Split) -> Pairs:
    """The pairs of a split. Raises DataError if it has no images, or images with different suffixes
    or unusable names."""
    images_dir = root / "images" / split
    with data_errors(images_dir):
        if not images_dir.is_dir():
            raise DataError(f"{images_dir}: the data folder is missing")
        paths = [
            path
            for path in images_dir.iterdir()
            if path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != "."
        ]
    check_names(images_dir, [path.name for path in paths])
    suffixes = sorted({path.suffix for path in paths})
    if len(suffixes) != 1:
        found = ", ".join(suffixes) or "none"
        raise DataError(
            f"{images_dir}: all images must have the same suffix, one of {IMAGE_SUFFIXES}; found "
            f"{found}"
        )
    # mmseg reads the names from a file, one per line, and strips them.
    unusable = [
        path.name for path in paths if path.stem != path.stem.strip() or {*path.stem} & {"\n", "\r"}
    ]
    if unusable:
        raise DataError(
            f"{images_dir}: file names must not begin or end with white space or contain a line "
            f"break; rename {first_named(map(repr, sorted(unusable)))} and their label maps"
        )
    return Pairs(
        images_dir,
        root / "annotations" / split,
        tuple(sorted(path.stem for path in paths)),
        suffixes[0],
    )


def label_fault(label_path: Path, image_path: Path, num_classes: int) -> str | None:
    """What is wrong with a label map, or None. It must decode, have its image's size and hold only
    known classes."""
    try:
        label_map, image_size = read_label_map(label_path), upright_size(image_path)
    except BrokenImageError as err:
        return str(err)
    height, width = label_map.shape
    if (width, height) != image_size:
        return f"is {width}x{height} pixels, but its image is {image_size[0]}x{image_size[1]}"
    known = {*UNLABELED, *range(1, num_classes + 1)}
    unknown = sorted({int(value) for value in np.unique(label_map)} - known)
    return (
        f"holds the values {unknown[:5]}, but there are {num_classes} classes" if unknown else None
    )


def has_labels(label_path: Path) -> bool:
    """Whether any pixel of a label map has a class. The map must have no fault."""
    return bool(set(np.unique(read_label_map(label_path)).tolist()) - UNLABELED)


def write_split(pairs: Pairs, broken: Collection[Path], to: Path) -> Path:
    """Writes the names of `pairs`, except the `broken` images, to the file `to` in mmseg's
    format."""
    names = [path.stem for path in pairs.image_paths if path not in broken]
    to.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    return to


def _from_json(text: str) -> tuple[str, ...]:
    names = parse_json(text)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("it must be a JSON list of names")
    return tuple(names)


def _from_lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _from_object_info(text: str) -> tuple[str, ...]:
    """Reads ADE20K's table: a header, then lines with index, ratio, counts and names, separated by
    tabs."""
    return tuple(line.split("\t")[-1].strip() for line in text.splitlines()[1:] if line.strip())


READERS: Mapping[str, Callable[[str], tuple[str, ...]]] = {
    "classes.json": _from_json,
    "classes.txt": _from_lines,
    "objectInfo150.txt": _from_object_info,
}
