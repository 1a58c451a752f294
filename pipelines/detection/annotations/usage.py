"""Describes how training and evaluation use consistent annotations. Does not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from pipelines.data.faults import DataFaults
from pipelines.detection.annotations.faults import MIN_SIDE, Columns, Entries
from pipelines.detection.annotations.mask_faults import has_no_polygon

if TYPE_CHECKING:
    from numpy.typing import NDArray

Split = Literal["train", "val"]


def find_use(columns: Columns, split: Split, faults: DataFaults) -> None:
    """Adds a fault if the split has nothing to train on, or nothing to measure."""
    num, is_crowd, is_dropped = len(columns.areas), columns.is_crowd, columns.is_dropped
    if split == "val":
        if (is_crowd | columns.is_ignored).all():
            faults.say(f"all {num} annotations are crowds or have `ignore`: AP cannot be measured")
    elif (is_crowd | is_dropped).all():
        faults.say(
            f"no object to train on: {is_dropped.sum()} of {num} annotations have a side below 1 "
            "pixel, area 0 or `ignore`, and the others are crowds"
        )
    elif not trains(columns).any():
        faults.say(
            f"no image to train on: all images with objects have a side below {MIN_SIDE} pixels"
        )


def find_mask_use(columns: Columns, annotations: Entries, faults: DataFaults) -> None:
    """Adds a fault if no object to train on has a usable mask."""
    is_useless = np.array(
        [has_no_polygon(entry.get("segmentation")) for entry in annotations], np.bool_
    )
    is_object = trains(columns)
    if (is_object & is_useless).any() and not (is_object & ~is_useless).any():
        faults.say(
            f"no object to train on: {(is_object & is_useless).sum()} masks have no polygon with "
            "three points; COCO writes the coordinates of a polygon in one list, [x1, y1, x2, "
            "y2, x3, y3, ...]"
        )


def trains(columns: Columns) -> NDArray[np.bool_]:
    """Whether each annotation is an object that training uses."""
    is_object: NDArray[np.bool_] = (
        ~columns.is_crowd & ~columns.is_dropped & _is_seen(columns)[columns.image_of]
    )
    return is_object


def describe_use(columns: Columns, annotations: Entries) -> str:
    """One line with the objects and images of a train split, and the entries that mmdet silently
    leaves out."""
    is_dropped, is_trained = columns.is_dropped, _is_seen(columns)
    is_crowd = columns.is_crowd & ~is_dropped
    is_object = ~columns.is_crowd & ~is_dropped
    has_object = np.bincount(columns.image_of[is_object], minlength=len(is_trained)) > 0
    has_any = _has_annotation(columns)
    counts = {
        "objects": is_object,
        "objects that reach beyond their image and are clipped": is_object & _reaches_out(columns),
        "crowds, used neither as object nor as background": is_crowd,
        "annotations ignored (a side below 1 pixel, area 0, or `ignore`)": is_dropped,
        "images left out because they have no annotation": ~has_any,
        f"images left out because a side is below {MIN_SIDE} pixels": has_any & ~is_trained,
        "images with only crowds or ignored annotations, which train as background": is_trained
        & ~has_object,
    }
    counted = [f"{what}: {chosen.sum()}" for what, chosen in counts.items() if chosen.any()]
    useless = sum(has_no_polygon(entry.get("segmentation")) for entry in annotations)
    if useless:
        counted.append(
            f"masks without a polygon of three points, ignored by methods with masks: {useless}"
        )
    return f"{is_trained.sum()} of {len(is_trained)} images to train on; {'; '.join(counted)}"


def _has_annotation(columns: Columns) -> NDArray[np.bool_]:
    """For each image, whether any annotation names it, which is the rule of mmdet's
    `filter_empty_gt`."""
    return np.bincount(columns.image_of, minlength=len(columns.sizes)) > 0


def _is_seen(columns: Columns) -> NDArray[np.bool_]:
    """For each image, whether training uses it."""
    is_trained: NDArray[np.bool_] = _has_annotation(columns) & (
        columns.sizes.min(axis=1) >= MIN_SIDE
    )
    return is_trained


def _reaches_out(columns: Columns) -> NDArray[np.bool_]:
    near, far = columns.boxes[:, :2], columns.boxes[:, :2] + columns.boxes[:, 2:]
    outside = (near < 0) | (far > columns.sizes[columns.image_of])
    return np.asarray(outside.any(axis=1))
