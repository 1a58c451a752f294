"""Finds faults in the content of COCO's annotations, and annotations that training ignores. Does
not import torch.

It works on columns, not rows, so that COCO's 860,000 annotations are checked in seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.data.faults import DataFaults
from pipelines.detection.annotations.one_reading import flag_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

FIELDS: Mapping[str, tuple[str, ...]] = {
    "images": ("id", "file_name", "width", "height"),
    "annotations": ("id", "image_id", "category_id", "bbox", "area", "iscrowd"),
    "categories": ("id", "name"),
}
MIN_SIDE = 32
"""In pixels. Training leaves out images with a shorter side, as mmdet does for COCO."""
_COORDINATES = 4
LARGEST = 2**31
"""Limit for sides in pixels and for areas, far above any real image."""

Entries = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Columns:
    """The columns of an annotation file whose entries have all fields with the right types."""

    sizes: NDArray[np.float64]
    """Width and height of each image."""
    image_of: NDArray[np.intp]
    """For each annotation, the index of its image in `images`; -1 if there is none."""
    boxes: NDArray[np.float64]
    """Left, top, width, height in pixels."""
    areas: NDArray[np.float64]
    is_crowd: NDArray[np.bool_]
    is_ignored: NDArray[np.bool_]
    """Whether the field `ignore` is set, which few data sets have."""

    @property
    def is_dropped(self) -> NDArray[np.bool_]:
        """Whether mmdet silently drops each annotation."""
        is_tiny = (self.boxes[:, 2:] < 1).any(axis=1)
        is_dropped: NDArray[np.bool_] = is_tiny | (self.areas == 0) | self.is_ignored
        return is_dropped


def find_structure_faults(document: Any, faults: DataFaults) -> None:
    """Adds missing parts, missing fields and values of a wrong type to `faults`."""
    if not isinstance(document, dict):
        faults.say("'images' is missing or empty; the file must hold COCO instances")
        return
    for part, fields in FIELDS.items():
        entries = document.get(part)
        if not isinstance(entries, list) or not entries:
            faults.say(f"'{part}' is missing or empty; the file must hold COCO instances")
            continue
        needed = set(fields)
        rows = [
            row
            for row, entry in enumerate(entries)
            if not isinstance(entry, dict) or not needed <= entry.keys()
        ]
        faults.add(f"{part} with missing fields", rows, partial(_lacks, document, part))
        if not rows:
            _find_type_faults(part, entries, faults)


def find_content_faults(document: Mapping[str, Any], faults: DataFaults) -> Columns:
    """Adds contradictory annotations to `faults` and returns the columns. The document must be in
    one reading, without structure faults."""
    images, annotations, categories = (document[part] for part in FIELDS)
    for part, entries in (
        ("images", images),
        ("annotations", annotations),
        ("categories", categories),
    ):
        _find_repeated(part, entries, faults)
    columns = _columns(images, annotations)

    def named(row: int) -> str:
        return f"annotations[{row}] (id {annotations[row]['id']})"

    known = {category["id"] for category in categories}
    unknown = [row for row, one in enumerate(annotations) if one["category_id"] not in known]
    faults.add(
        "annotations whose image_id is not in 'images'",
        np.flatnonzero(columns.image_of < 0).tolist(),
        lambda row: f"{named(row)} of image {annotations[row]['image_id']!r}",
    )
    faults.add(
        "annotations whose category_id is not in 'categories'",
        unknown,
        lambda row: f"{named(row)} of category {annotations[row]['category_id']!r}",
    )
    _find_box_faults(columns, annotations, faults)
    return columns


def _find_type_faults(part: str, entries: Entries, faults: DataFaults) -> None:
    ids = [name for name in FIELDS[part] if name.endswith("id")]

    def named(row: int) -> str:
        return f"{part}[{row}] ({', '.join(f'{name} {entries[row][name]!r}' for name in ids)})"

    nameless = [
        row for row, one in enumerate(entries) if not all(_is_id(one[name]) for name in ids)
    ]
    faults.add(f"{part} whose {', '.join(ids)} are not 64-bit integers", nameless, named)
    for what, fields, is_right in _TYPES[part]:
        wrong = [row for row, one in enumerate(entries) if not is_right(one)]
        faults.add(f"{part} {what}", wrong, partial(_shown, part, entries, fields))


def _shown(part: str, entries: Entries, fields: Sequence[str], row: int) -> str:
    """An entry with its id and the values of its `fields`."""
    entry = entries[row]
    values = [f"{name} {entry[name]!r}" for name in fields if name in entry]
    return " ".join([f"{part}[{row}] (id {entry['id']!r})", *values])


def _is_id(value: object) -> bool:
    """Whether `value` is a 64-bit integer. COCO's evaluation counts an annotation with a larger id
    as never found."""
    return type(value) is int and abs(value) < 2**63


def _is_sized(image: Mapping[str, Any]) -> bool:
    sides = image["width"], image["height"]
    return isinstance(image["file_name"], str) and all(
        type(side) is int and 0 < side < LARGEST for side in sides
    )


def _is_measured(annotation: Mapping[str, Any]) -> bool:
    box, area = annotation["bbox"], annotation["area"]
    if not isinstance(box, list) or len(box) != _COORDINATES:
        return False
    # False for NaN.
    return all(type(value) in (int, float) and abs(value) < LARGEST for value in (*box, area))


def _is_flagged(annotation: Mapping[str, Any]) -> bool:
    ignore = annotation.get("ignore")
    return flag_of(annotation["iscrowd"]) is not None and (
        ignore is None or flag_of(ignore) is not None
    )


def _is_named(category: Mapping[str, Any]) -> bool:
    name = category["name"]
    return (
        bool(name.strip())
        if isinstance(name, str)
        else type(name) in (int, float) and math.isfinite(name)
    )


_TYPES: Mapping[str, Sequence[tuple[str, Sequence[str], Callable[[Mapping[str, Any]], bool]]]] = {
    "images": [
        (
            "whose width or height is not a positive integer, or whose file_name is not a string",
            ("width", "height", "file_name"),
            _is_sized,
        )
    ],
    "annotations": [
        (
            "whose bbox is not four finite numbers, or whose area is not a finite number",
            ("bbox", "area"),
            _is_measured,
        ),
        ("whose iscrowd or ignore is neither 0 nor 1", ("iscrowd", "ignore"), _is_flagged),
    ],
    "categories": [("whose name is empty, or neither a string nor a number", ("name",), _is_named)],
}
"""Checks by part: the text of the fault, the fields to show, and whether an entry is right."""


def _find_repeated(part: str, entries: Entries, faults: DataFaults) -> None:
    first = {one["id"]: row for row, one in reversed(list(enumerate(entries)))}
    again = (
        [row for row, one in enumerate(entries) if first[one["id"]] != row]
        if len(first) < len(entries)
        else []
    )
    faults.add(
        f"{part} with a repeated id",
        again,
        lambda row: f"{part}[{row}] (id {entries[row]['id']})",
    )


def _columns(images: Entries, annotations: Entries) -> Columns:
    index_of = {image["id"]: index for index, image in enumerate(images)}
    return Columns(
        sizes=np.array([(image["width"], image["height"]) for image in images], np.float64),
        image_of=np.array([index_of.get(one["image_id"], -1) for one in annotations], np.intp),
        boxes=np.array([one["bbox"] for one in annotations], np.float64),
        areas=np.array([one["area"] for one in annotations], np.float64),
        is_crowd=np.array([one["iscrowd"] for one in annotations], np.bool_),
        is_ignored=np.array([one.get("ignore", 0) for one in annotations], np.bool_),
    )


def _find_box_faults(columns: Columns, annotations: Entries, faults: DataFaults) -> None:
    """Adds negative sides and areas, and boxes that share no pixel with their image."""
    boxes = columns.boxes
    is_negative = (boxes[:, 2:] < 0).any(axis=1) | (columns.areas < 0)
    near, far = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    is_outside = ((far <= 0) | (near >= columns.sizes[columns.image_of])).any(axis=1)
    is_outside &= ~is_negative & ~columns.is_dropped & (columns.image_of >= 0)

    def shown(row: int) -> str:
        one, index = annotations[row], columns.image_of[row]
        size = "" if index < 0 else ", image {:.0f}x{:.0f}".format(*columns.sizes[index])
        return f"annotations[{row}] (id {one['id']}) bbox {one['bbox']} area {one['area']}{size}"

    faults.add("boxes of negative size", np.flatnonzero(is_negative).tolist(), shown)
    faults.add("boxes wholly outside their image", np.flatnonzero(is_outside).tolist(), shown)


def _lacks(document: Mapping[str, Any], part: str, row: int) -> str:
    entry = document[part][row]
    missing = [name for name in FIELDS[part] if not isinstance(entry, dict) or name not in entry]
    return f"{part}[{row}] lacks {', '.join(missing)}"
