"""Paints boxes and masks over their images: what is true beside what was detected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval import COCO
from PIL import Image

from pipelines.data.image_files import load_upright
from pipelines.details.painting import colour_of, fitted, paint_box, paint_mask, save_beside

Entries = Sequence[Mapping[str, Any]]


def paint(image_path: Path, truth: COCO, objects: Entries, detections: Entries, to: Path) -> None:
    """Objects and detections, in COCO's format and with masks where they have any, over the image;
    a JPEG at `to`."""
    image = load_upright(image_path)
    save_beside(_over(image, truth, objects), _over(image, truth, detections), to)


def _over(image: Image.Image, truth: COCO, entries: Entries) -> Image.Image:
    """The better a detection scores the later it is painted."""
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
