"""The output `details` of a detector's evaluation, made of what the evaluator wrote: rank 0 alone
does it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.details.painting import evenly_spread
from pipelines.detection.matching import IOU_THRESHOLD, SCORE_THRESHOLD, confuse
from pipelines.detection.painting import paint
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
    """Adds the confusion matrix and painted images to the evaluator's files; removes predictions
    not asked for."""
    truth = load_truth(ann_file)
    paths = [
        predictions_path(details_dir, name)
        for name in (["bbox", "segm"] if has_masks else ["bbox"])
    ]
    boxes, *masks = [json.loads(path.read_bytes()) for path in paths]
    confuse(truth, boxes).write(
        details_dir, counted="objects", score_threshold=SCORE_THRESHOLD, iou_threshold=IOU_THRESHOLD
    )
    # Boxes and masks of a detection stand at the same place of both files.
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
    for image in (images[place] for place in evenly_spread(len(images), num)):
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
