"""What training and measuring make of annotations that agree with themselves. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from pipelines.detection.annotation_faults import MIN_SIDE, Columns, Entries
from pipelines.detection.mask_faults import count_useless_polygons
from pipelines.faults import Faults

if TYPE_CHECKING:
    from numpy.typing import NDArray

Split = Literal["train", "val"]


def find_use(columns: Columns, split: Split, faults: Faults) -> None:
    """Nothing to learn from, or nothing to measure by."""
    num, is_crowd, is_dropped = len(columns.areas), columns.is_crowd, columns.is_dropped
    if split == "val":
        if (is_crowd | columns.is_ignored).all():
            faults.say(f"all {num} annotations are crowds or have `ignore`: AP cannot be measured")
    elif (is_crowd | is_dropped).all():
        faults.say(
            f"no object to learn from: {is_dropped.sum()} of {num} annotations have a side below 1 pixel, area 0 or "
            "`ignore`, the others are crowds"
        )
    elif not _is_seen(columns).any():
        faults.say(f"no image to learn from: all that have annotations have a side below {MIN_SIDE} pixels")


def describe_use(columns: Columns, annotations: Entries) -> str:
    """Objects and images of a train split, and what mmdet leaves out or passes over without a word."""
    is_dropped, is_seen = columns.is_dropped, _is_seen(columns)
    is_crowd = columns.is_crowd & ~is_dropped
    is_object = ~columns.is_crowd & ~is_dropped
    has_object = np.bincount(columns.image_of[is_object], minlength=len(is_seen)) > 0
    has_any = _has_annotation(columns)
    counts = {
        "objects": is_object,
        "of them reach beyond their image and are clipped": is_object & _reaches_out(columns),
        "crowds, neither object nor background": is_crowd,
        "annotations passed over (a side below 1 pixel, area 0, or `ignore`)": is_dropped,
        "images left out for want of annotations": ~has_any,
        f"images left out for a side below {MIN_SIDE} pixels": has_any & ~is_seen,
        "images with crowds or passed-over annotations alone, which train as background": is_seen & ~has_object,
    }
    told = [f"{chosen.sum()} {what}" for what, chosen in counts.items() if chosen.any()]
    useless = count_useless_polygons(annotations)
    if useless:
        told.append(f"{useless} masks without a polygon of three points, ignored where masks are learnt")
    return f"{is_seen.sum()} of {len(is_seen)} images to train on; {'; '.join(told)}"


def _has_annotation(columns: Columns) -> NDArray[np.bool_]:
    """Of each image, whether any annotation names it: mmdet's `filter_empty_gt` asks no more."""
    return np.bincount(columns.image_of, minlength=len(columns.sizes)) > 0


def _is_seen(columns: Columns) -> NDArray[np.bool_]:
    """Of each image, whether training sees it."""
    is_seen: NDArray[np.bool_] = _has_annotation(columns) & (columns.sizes.min(axis=1) >= MIN_SIDE)
    return is_seen


def _reaches_out(columns: Columns) -> NDArray[np.bool_]:
    near, far = columns.boxes[:, :2], columns.boxes[:, :2] + columns.boxes[:, 2:]
    outside = (near < 0) | (far > columns.sizes[columns.image_of])
    return np.asarray(outside.any(axis=1))
