"""Reads a data set in COCO's layout: annotation files, class names, image paths. Does not import
torch."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.artifact import digest_of
from orchestrator.errors import DataError
from pipelines.data.digests import digests_of_files
from pipelines.data.faults import DataFaults, data_errors, reason
from pipelines.data.files import digest_of_folders
from pipelines.data.folder import data_folder, fingerprint_remote
from pipelines.data.s3 import is_remote
from pipelines.data.text import decode_text, parse_json
from pipelines.detection.annotations.faults import (
    Columns,
    find_content_faults,
    find_structure_faults,
)
from pipelines.detection.annotations.mask_faults import find_mask_faults, find_measure_faults
from pipelines.detection.annotations.one_reading import in_one_reading, is_plain
from pipelines.detection.annotations.usage import (
    Split,
    describe_use,
    find_mask_use,
    find_use,
    trains,
)
from pipelines.detection.params import DetectionParams

if TYPE_CHECKING:
    from numpy.typing import NDArray

_REMEDY = "correct the annotation file"
PARSED_WHILE_PLANNING_BYTES = 64 * 2**20
"""Annotation files up to this size are parsed while planning. Larger files, such as COCO's own of
450 MB, are parsed only when the stage runs."""


@dataclass(frozen=True)
class Annotations:
    """An annotation file, with checks of everything that training relies on."""

    split: Split
    path: Path
    document: Mapping[str, Any]
    classes: tuple[str, ...]
    """Class names in the order of the labels, which is the order in the file."""
    images_dir: Path
    columns: Columns
    is_read_alike: bool
    """Whether mmdet and COCO's tools would read the original file exactly as this module does."""

    @property
    def use(self) -> str:
        """One line that describes how training uses the file."""
        return f"{self.path.name}: {describe_use(self.columns, self.document['annotations'])}"

    @property
    def is_object(self) -> NDArray[np.bool_]:
        """Whether each annotation is an object: one to train on, or in val one to detect."""
        return trains(self.columns) if self.split == "train" else ~self.columns.is_crowd

    @property
    def image_paths(self) -> list[Path]:
        return [self.images_dir / image["file_name"] for image in self.document["images"]]

    @property
    def image_sizes(self) -> dict[Path, tuple[int, int]]:
        """Width and height of each image in pixels, as given in the file."""
        images = self.document["images"]
        return {
            self.images_dir / image["file_name"]: (image["width"], image["height"])
            for image in images
        }


@dataclass(frozen=True)
class CheckedFile:
    """An annotation file that all readers read alike, and the number of objects that each must
    find."""

    path: Path
    num_objects: int
    """Number of objects to train on, or in val to detect."""


def fingerprint(params: DetectionParams) -> str:
    """Digest of a stage's data. Raises DataError if the data is missing or does not match the
    params.

    Data in S3 is listed but not read. Its content is checked when the stage runs.
    """
    splits: tuple[Split, ...] = ("train", "val")
    if is_remote(params.data):
        return fingerprint_remote(params.data, "coco", *splits)
    root = data_folder(params.data, "coco")
    folders = digest_of_folders(root, ("annotations", "train2017", "val2017"))
    small = [
        split
        for split in splits
        if _size(annotation_path(root, split)) <= PARSED_WHILE_PLANNING_BYTES
    ]
    check_annotations([read_annotations(root, split) for split in small], params)
    # Always includes the bytes of these files, because an edit often keeps the size.
    return digest_of(
        [folders, *digests_of_files(root, [annotation_name(split) for split in splits])]
    )


def fingerprint_val(params: DetectionParams) -> str:
    """Digest of val only, because an evaluation reads nothing else."""
    if is_remote(params.data):
        return fingerprint_remote(params.data, "coco", "val")
    root = data_folder(params.data, "coco")
    digest = digest_of(
        [*digests_of_files(root, [annotation_name("val")]), digest_of_folders(root, ("val2017",))]
    )
    if _size(annotation_path(root, "val")) <= PARSED_WHILE_PLANNING_BYTES:
        check_annotations([read_annotations(root, "val")], params)
    return digest


def annotation_path(root: Path, split: Split) -> Path:
    return root / annotation_name(split)


def annotation_name(split: Split) -> str:
    return f"annotations/instances_{split}2017.json"


def read_annotations(root: Path, split: Split) -> Annotations:
    """Reads a split's annotation file. Raises DataError, with all faults, unless the file is COCO's
    JSON and consistent."""
    path = annotation_path(root, split)
    as_written, is_plain_text = _parse(path)
    faults = DataFaults(path)
    find_structure_faults(as_written, faults)
    faults.raise_any(_REMEDY)
    document = in_one_reading(as_written)
    columns = find_content_faults(document, faults)
    names = tuple(category["name"] for category in document["categories"])
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        faults.say(f"categories with the same name: {', '.join(twice)}; rename them")
    if not faults:
        find_use(columns, split, faults)
    faults.raise_any(_REMEDY)
    is_alike = document is as_written and is_plain_text
    return Annotations(split, path, document, names, root / f"{split}2017", columns, is_alike)


def _parse(path: Path) -> tuple[Any, bool]:
    """The JSON document, and whether all readers see the same text.

    A function of its own, so that the text (450 MB for COCO) is freed before the document is
    checked.
    """
    try:
        content = path.read_bytes()
        return parse_json(decode_text(content, str(path))), is_plain(content)
    except OSError as err:
        raise DataError(f"{path}: the annotation file cannot be read: {reason(err)}") from err
    except (ValueError, RecursionError) as err:
        raise DataError(f"{path}: the annotation file is not JSON: {err}") from err


def check_annotations(files: Collection[Annotations], params: DetectionParams) -> None:
    """Raises DataError unless the files have the classes of the job, the same in each, and masks if
    the method needs them."""
    for file in files:
        params.check_classes(file.classes, file.path)
        if params.traits.has_masks:
            faults = DataFaults(file.path)
            find_mask_faults(file.document["annotations"], file.columns, faults)
            if file.split == "val":
                find_measure_faults(file.document["annotations"], faults)
            else:
                find_mask_use(file.columns, file.document["annotations"], faults)
            faults.raise_any(
                f"{params.method_name} trains on masks; complete the file, or choose a method "
                "that trains on boxes only"
            )
    for one, other in zip(list(files), list(files)[1:], strict=False):
        if one.classes != other.classes:
            differing = sorted(set(one.classes) ^ set(other.classes)) or ["their order"]
            raise DataError(
                f"{one.path} and {other.path} differ in their categories: {', '.join(differing)}; "
                "give both files the same categories in the same order"
            )


def checked_file(file: Annotations, broken: Collection[Path], to: Path) -> CheckedFile:
    """The annotation file for mmdet and COCO's tools.

    It is a copy at `to` if they would read the original differently, or if it has `broken` images,
    which the copy leaves out. Raises DataError if all objects are on broken images.
    """
    images, annotations = file.document["images"], file.document["annotations"]
    is_gone = np.array(
        [file.images_dir / image["file_name"] in broken for image in images], np.bool_
    )
    num_objects = int(np.count_nonzero(file.is_object & ~is_gone[file.columns.image_of]))
    if num_objects == 0:
        raise DataError(
            f"{file.path}: no object is left, because no image with objects can be decoded; "
            "replace these images"
        )
    if file.is_read_alike and not is_gone.any():
        return CheckedFile(file.path, num_objects)
    gone = {image["id"] for image, is_out in zip(images, is_gone, strict=True) if is_out}
    document = {
        **file.document,
        "images": [image for image in images if image["id"] not in gone],
        "annotations": [one for one in annotations if one["image_id"] not in gone],
    }
    to.write_text(json.dumps(document), encoding="ascii")
    return CheckedFile(to, num_objects)


def _size(path: Path) -> int:
    with data_errors(path):
        return path.stat().st_size if path.is_file() else 0
