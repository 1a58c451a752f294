"""Reads a data set in COCO's layout: annotation files, class names, image paths. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from orchestrator.artifact import digest_of
from orchestrator.errors import DataError
from pipelines.data import data_folder
from pipelines.detection.params import DetectionParams
from pipelines.fingerprint import digest_of_file, digest_of_folders

Split = Literal["train", "val"]
PARSED_WHILE_PLANNING_BYTES = 64 * 2**20
"""Annotation files up to this size are parsed while planning; COCO's own of 450 MB only where the stage runs."""


@dataclass(frozen=True)
class Annotations:
    """An annotation file, checked as far as training relies on it."""

    path: Path
    document: Mapping[str, Any]
    classes: tuple[str, ...]
    """Names in the order of the labels, which is the order of the file."""
    images_dir: Path

    @property
    def image_paths(self) -> list[Path]:
        return [self.images_dir / image["file_name"] for image in self.document["images"]]


def fingerprint(params: DetectionParams) -> str:
    """Digest of the data of a stage; raises DataError when it is missing or other than the params say."""
    root = data_folder(params.data, "coco")
    digest = digest_of_folders(root, ("annotations", "train2017", "val2017"))
    splits: tuple[Split, ...] = ("train", "val")
    small = [split for split in splits if _size(annotation_path(root, split)) <= PARSED_WHILE_PLANNING_BYTES]
    check_annotations([read_annotations(root, split) for split in small], params)
    return digest


def fingerprint_val(params: DetectionParams) -> str:
    """Likewise of val alone, which is all that an evaluation reads."""
    root = data_folder(params.data, "coco")
    path = annotation_path(root, "val")
    digest = digest_of([digest_of_file(path), digest_of_folders(root, ("val2017",))])
    if _size(path) <= PARSED_WHILE_PLANNING_BYTES:
        check_annotations([read_annotations(root, "val")], params)
    return digest


def annotation_path(root: Path, split: Split) -> Path:
    return root / "annotations" / f"instances_{split}2017.json"


def read_annotations(root: Path, split: Split) -> Annotations:
    """Raises DataError unless the file is COCO's JSON with images, boxes and classes of different names."""
    path = annotation_path(root, split)
    try:
        document = json.loads(path.read_bytes())
    except OSError as err:
        raise DataError(f"{path}: the annotation file cannot be read: {err.strerror}") from err
    except (ValueError, RecursionError) as err:
        raise DataError(f"{path}: the annotation file is not JSON: {err}") from err
    _check_fields(document, path)
    names = tuple(str(category["name"]) for category in document["categories"])
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise DataError(f"{path}: categories with the same name: {', '.join(twice)}; give each its own")
    return Annotations(path, document, names, root / f"{split}2017")


def check_annotations(files: Collection[Annotations], params: DetectionParams) -> None:
    """Raises DataError unless the files have what the stage needs: the same classes, as many as it says, and masks."""
    for file in files:
        _check_num_classes(file, params.num_classes)
        if params.traits.has_masks:
            _check_masks(file, params.method_name)
    for one, other in zip(list(files), list(files)[1:], strict=False):
        if one.classes != other.classes:
            differing = sorted(set(one.classes) ^ set(other.classes)) or ["their order"]
            raise DataError(f"{one.path} and {other.path} differ in their categories: {', '.join(differing)}")


def _check_num_classes(file: Annotations, num_classes: int | None) -> None:
    if num_classes is not None and len(file.classes) != num_classes:
        raise DataError(
            f"{file.path}: has {len(file.classes)} categories, but num_classes is {num_classes}; correct it or "
            "leave it out"
        )


def _check_masks(file: Annotations, method: str) -> None:
    without = [place for place, entry in enumerate(file.document["annotations"]) if not entry.get("segmentation")]
    if without:
        raise DataError(
            f"{file.path}: {len(without)} annotations have no segmentation, annotations[{without[0]}] first, and "
            f"{method} learns masks; complete the file, or choose a method that learns boxes alone"
        )


def without_images(file: Annotations, broken: Collection[Path], to: Path) -> Path:
    """The annotation file's path; when `broken` has images of it, that of a copy at `to` that lacks them."""
    gone = {image["id"] for image in file.document["images"] if file.images_dir / image["file_name"] in broken}
    if not gone:
        return file.path
    document = {
        **file.document,
        "images": [image for image in file.document["images"] if image["id"] not in gone],
        "annotations": [box for box in file.document["annotations"] if box["image_id"] not in gone],
    }
    to.write_text(json.dumps(document))
    return to


def _check_fields(document: object, path: Path) -> None:
    needed = {
        "images": ("id", "file_name", "width", "height"),
        "annotations": ("id", "image_id", "category_id", "bbox", "area", "iscrowd"),
        "categories": ("id", "name"),
    }
    for part, fields in needed.items():
        entries = document.get(part) if isinstance(document, dict) else None
        if not isinstance(entries, list) or not entries:
            raise DataError(f"{path}: '{part}' is missing or empty; it must be a file of COCO instances")
        for place, entry in enumerate(entries):
            missing = [name for name in fields if not isinstance(entry, dict) or name not in entry]
            if missing:
                raise DataError(f"{path}: {part}[{place}] lacks {', '.join(missing)}")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
