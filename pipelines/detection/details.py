"""Completes the output `details` of a detector's evaluation, on rank 0. It uses the evaluator's
files and paints boxes and masks over their images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval import COCO
from PIL import Image

from pipelines.data.image_files import load_upright
from pipelines.details.painting import (
    colour_of,
    evenly_spread,
    fitted,
    paint_box,
    paint_mask,
    save_beside,
)
from pipelines.detection.matching import IOU_THRESHOLD, SCORE_THRESHOLD, confuse
from pipelines.detection.params import DetectionEvaluationParams
from pipelines.detection.scores import load_truth, predictions_path


def complete_details(
    details_dir: Path,
    params: DetectionEvaluationParams,
    *,
    ann_file: Path,
    images_dir: Path,
    has_masks: bool,
) -> None:
    """Adds the confusion matrix and painted images to the evaluator's files. Removes the
    predictions unless the params ask for them."""
    truth = load_truth(ann_file)
    paths = [
        predictions_path(details_dir, name)
        for name in (["bbox", "segm"] if has_masks else ["bbox"])
    ]
    boxes, *masks = [json.loads(path.read_bytes()) for path in paths]
    confuse(truth, boxes).write(
        details_dir, counted="objects", score_threshold=SCORE_THRESHOLD, iou_threshold=IOU_THRESHOLD
    )
    # Boxes and masks of a detection have the same index in both files.
    detections = (
        [{**box, **mask} for box, mask in zip(boxes, masks[0], strict=True)] if masks else boxes
    )
    _paint(
        details_dir / "painted",
        truth,
        detections,
        images_dir,
        params.num_painted,
        has_masks=has_masks,
    )
    if not params.predictions:
        for path in paths:
            path.unlink()


def _paint(
    folder: Path,
    truth: Any,
    detections: Sequence[Mapping[str, Any]],
    images_dir: Path,
    num: int,
    *,
    has_masks: bool,
) -> None:
    images = truth.dataset["images"]
    for image in (images[index] for index in evenly_spread(len(images), num)):
        shown = [
            one
            for one in detections
            if one["image_id"] == image["id"] and one["score"] >= SCORE_THRESHOLD
        ]
        name = Path(image["file_name"]).with_suffix(".jpg").as_posix().replace("/", "_")
        objects = truth.imgToAnns[image["id"]]
        if not has_masks:  # masks are checked only where the method learns them
            objects = [{**one, "segmentation": None} for one in objects]
        paint(images_dir / image["file_name"], truth, objects, shown, folder / name)


Entries = Sequence[Mapping[str, Any]]


def paint(image_path: Path, truth: COCO, objects: Entries, detections: Entries, to: Path) -> None:
    """Paints objects and detections, in COCO's format and with any masks, over the image. Writes a
    JPEG to `to`."""
    image = load_upright(image_path)
    save_beside(_over(image, truth, objects), _over(image, truth, detections), to)


def _over(image: Image.Image, truth: COCO, entries: Entries) -> Image.Image:
    """Paints detections in rising order of score, so that the best are on top."""
    labels = {category["id"]: label for label, category in enumerate(truth.dataset["categories"])}
    painted, factor = fitted(image)
    ranked = sorted(entries, key=lambda entry: entry.get("score", 0))
    for entry in ranked:
        if entry.get("segmentation"):
            mask = Image.fromarray(truth.annToMask(entry)).resize(
                painted.size, Image.Resampling.NEAREST
            )
            painted = paint_mask(
                painted, np.asarray(mask) > 0, colour_of(labels[entry["category_id"]])
            )
    for entry in ranked:
        x, y, width, height = (factor * number for number in entry["bbox"])
        colour = colour_of(labels[entry["category_id"]])
        paint_box(painted, (x, y, x + width, y + height), _text(entry, truth), colour)
    return painted


def _text(entry: Mapping[str, Any], truth: COCO) -> str:
    name = truth.cats[entry["category_id"]]["name"]
    if "score" in entry:
        return f"{name} {entry['score']:.2f}"
    return f"{name} (crowd)" if entry["iscrowd"] else str(name)
