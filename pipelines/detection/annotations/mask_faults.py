"""Finds faults in the masks of COCO's annotations, which are polygons or run lengths. Does not
import torch.

It checks values with functions that Python implements in C, so that COCO's 860,000 annotations take
seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeGuard

from pipelines.data.faults import DataFaults
from pipelines.detection.annotations.faults import LARGEST, Columns, Entries

_POLYGON_COORDINATES = 6
_WHOLE_NUMBERS, _NUMBERS = frozenset({int}), frozenset({int, float})
_FIRST_CHARACTER, _MOST, _MORE, _SIGN, _BITS, _PLAIN_RUNS = 48, 63, 32, 16, 31, 2


def find_mask_faults(annotations: Entries, columns: Columns, faults: DataFaults) -> None:
    """Adds annotations without a mask, and masks that cannot be read or do not have the size of
    their image.

    `columns` belong to the annotations. Each annotation must have its image.
    """
    masks = [entry.get("segmentation") for entry in annotations]
    polygons = {row: mask for row, mask in enumerate(masks) if _is_polygons(mask)}
    runs = {row: mask for row, mask in enumerate(masks) if _is_rle(mask)}
    empty = [row for row, mask in enumerate(masks) if not mask]
    strange = [
        row for row, mask in enumerate(masks) if mask and row not in polygons and row not in runs
    ]

    def named(row: int) -> str:
        return _named(annotations, row)

    faults.add("annotations have no segmentation", empty, named)
    faults.add("annotations have neither polygons nor run lengths as segmentation", strange, named)
    wrong = {row for row, mask in polygons.items() if not all(map(_is_finite, mask))}
    faults.add(
        "annotations have polygons with values that are not finite numbers", sorted(wrong), named
    )
    odd = [
        row
        for row, mask in polygons.items()
        if row not in wrong and any(len(one) % 2 for one in mask)
    ]
    faults.add("annotations have polygons with an odd number of coordinates", odd, named)
    _find_run_faults(runs, annotations, columns, faults)


def find_measure_faults(annotations: Entries, faults: DataFaults) -> None:
    """Adds masks that COCO's tools would misread, because they judge the form of a mask by its
    first polygon."""
    masks = [entry.get("segmentation") for entry in annotations]
    short = [
        row
        for row, mask in enumerate(masks)
        if _is_polygons(mask) and len(mask[0]) < _POLYGON_COORDINATES
    ]
    faults.add(
        "annotations begin with a polygon that has fewer than three points",
        short,
        lambda row: _named(annotations, row),
    )


def has_no_polygon(mask: object) -> bool:
    """Whether no polygon of a mask has three points. mmdet treats such an object as a region to
    ignore."""
    return _is_polygons(mask) and not any(
        len(one) >= _POLYGON_COORDINATES and len(one) % 2 == 0 for one in mask
    )


def _named(annotations: Entries, row: int) -> str:
    return f"annotations[{row}] (id {annotations[row]['id']})"


def _find_run_faults(
    runs: dict[int, dict[str, Any]], annotations: Entries, columns: Columns, faults: DataFaults
) -> None:
    """Adds run lengths that do not fit their image. pycocotools decodes too few runs to arbitrary
    bytes of memory."""
    sizes = {row: _image_size(columns, row) for row in runs}
    other = [row for row, mask in runs.items() if not _is_size(mask["size"], sizes[row])]
    faults.add(
        "annotations have run lengths whose size is not their image's height and width",
        other,
        lambda row: f"{_named(annotations, row)} size {runs[row]['size']} instead of {sizes[row]}",
    )
    short = [
        row for row, mask in runs.items() if not _adds_up(mask["counts"], math.prod(sizes[row]))
    ]
    faults.add(
        "annotations have run lengths that do not add up to the pixels of their image",
        short,
        lambda row: f"{_named(annotations, row)} in an image of {math.prod(sizes[row])} pixels",
    )


def _is_polygons(mask: object) -> TypeGuard[list[list[Any]]]:
    return (
        isinstance(mask, list) and bool(mask) and all(isinstance(polygon, list) for polygon in mask)
    )


def _is_finite(polygon: Sequence[Any]) -> bool:
    """Whether all values are numbers in the range of coordinates."""
    try:
        # False for NaN.
        return _NUMBERS.issuperset(map(type, polygon)) and math.hypot(*polygon) < LARGEST
    except OverflowError:
        return False


def _is_rle(mask: object) -> TypeGuard[dict[str, Any]]:
    return (
        isinstance(mask, dict)
        and isinstance(mask.get("counts"), list | str)
        and bool(mask.get("size"))
    )


def _is_size(value: object, size: list[int]) -> bool:
    """Whether `value` equals `size` and consists of integers. A value such as 48.0 crashes the
    evaluation in C++."""
    return value == size and isinstance(value, list) and _WHOLE_NUMBERS.issuperset(map(type, value))


def _image_size(columns: Columns, row: int) -> list[int]:
    """Height and width of an annotation's image in pixels."""
    width, height = columns.sizes[columns.image_of[row]]
    return [int(height), int(width)]


def _adds_up(counts: list[Any] | str, num_pixels: int) -> bool:
    """Whether the runs cover the image exactly."""
    runs = _uncompressed(counts) if isinstance(counts, str) else counts
    return (
        _WHOLE_NUMBERS.issuperset(map(type, runs))
        and min(runs, default=-1) >= 0
        and sum(runs) == num_pixels
    )


def _uncompressed(text: str) -> list[int]:
    """The runs in a text of COCO's format; empty if the text is not in this format.

    A character holds five bits, the lowest first, and a flag that more follow. From the fourth run
    on, the text holds the difference to the run before the last one.
    """
    runs: list[int] = []
    value = shift = 0
    for code in (ord(character) - _FIRST_CHARACTER for character in text):
        if not 0 <= code <= _MOST:
            return []
        value |= (code & _BITS) << shift
        shift += 5
        if code & _MORE:
            continue
        value -= (1 << shift) if code & _SIGN else 0
        runs.append(value + runs[-2] if len(runs) > _PLAIN_RUNS else value)
        value = shift = 0
    return [] if shift else runs
