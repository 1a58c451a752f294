"""The confusion matrix of a detector: the class that was predicted for each object, missed objects,
and detections without an object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from faster_coco_eval import COCO
from pycocotools import mask as rle

from pipelines.details.confusion import Confusion, sum_counts

SCORE_THRESHOLD = 0.3
"""Detections with a lower score are neither counted nor painted."""
IOU_THRESHOLD = 0.5
BACKGROUND = "background"
"""The last class: the truth of a detection without an object, and the prediction for an object
without a detection."""

Entries = Sequence[Mapping[str, Any]]


def confuse(truth: COCO, results: Entries) -> Confusion:
    """The confusion matrix of matched boxes. In falling order of score, each detection takes the
    free object that it overlaps most, regardless of its class.

    Each object is taken at most once, so a row sums to the objects of its class. As in COCO's AP, a
    detection on a crowd of its own class is not counted.
    """
    labels = {category["id"]: label for label, category in enumerate(truth.dataset["categories"])}
    classes = (*(category["name"] for category in truth.dataset["categories"]), BACKGROUND)
    by_image: dict[Any, list[Mapping[str, Any]]] = {image_id: [] for image_id in truth.getImgIds()}
    for result in results:
        if result["score"] >= SCORE_THRESHOLD:
            by_image[result["image_id"]].append(result)
    counts = [
        {(labels.get(true, len(labels)), labels.get(found, len(labels))): 1}
        for image_id, detections in by_image.items()
        for true, found in _pairs(truth.imgToAnns[image_id], detections)
    ]
    return Confusion(classes, sum_counts(counts))


def _pairs(objects: Entries, detections: Entries) -> Iterator[tuple[int | None, int | None]]:
    """Pairs of category ids (object, detection), with None for the background."""
    ranked = sorted(detections, key=lambda one: -one["score"])
    overlaps_DG = _overlaps(ranked, objects)
    is_free_G = np.array([not one["iscrowd"] for one in objects], bool)
    for detection, overlaps_G in zip(ranked, overlaps_DG, strict=True):
        taken = int(np.where(is_free_G, overlaps_G, -1).argmax()) if len(objects) else -1
        if taken >= 0 and is_free_G[taken] and overlaps_G[taken] >= IOU_THRESHOLD:
            is_free_G[taken] = False
            yield objects[taken]["category_id"], detection["category_id"]
        elif not _is_on_crowd(detection, objects, overlaps_G):
            yield None, detection["category_id"]
    yield from (
        (one["category_id"], None)
        for one, is_free in zip(objects, is_free_G, strict=True)
        if is_free
    )


def _overlaps(detections: Entries, objects: Entries) -> Any:
    """Overlaps of shape (detections, objects): IoU, or for a crowd the share of the detection
    inside it."""
    if not detections or not objects:
        return np.zeros((len(detections), len(objects)))
    boxes = [
        np.array([one["bbox"] for one in entries], np.float64) for entries in (detections, objects)
    ]
    return rle.iou(*boxes, [one["iscrowd"] for one in objects])


def _is_on_crowd(
    detection: Mapping[str, Any], objects: Entries, overlaps_G: Sequence[float]
) -> bool:
    return any(
        one["iscrowd"]
        and one["category_id"] == detection["category_id"]
        and overlap >= IOU_THRESHOLD
        for one, overlap in zip(objects, overlaps_G, strict=True)
    )
