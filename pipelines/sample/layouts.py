"""The files of the sample data sets: the same scans in ImageNet's, COCO's and ADE20K's layouts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from pipelines.sample.drawing import Placed, Polygon, background, draw, outline, png
from pipelines.sample.scans import NAMES, Scan, Split

IMAGE_PX = 64
CROP_PX = 56
"""Side of the central square that holds the digits of the ImageNet layout, so that an evaluation's
centre crop cuts none."""
SCENE_PX = 128
DIGIT_PX = (28, 60)
DIGITS_PER_SCENE = (2, 5)
PLACING_TRIES = 300
ADE20K_SPLITS: dict[Split, str] = {"train": "training", "val": "validation"}
SEEDS: dict[Split, int] = {"train": 0, "val": 1}

FileOfSample = tuple[str, bytes]
"""Path below the sample's folder, and content."""


@dataclass(frozen=True)
class Thing:
    """A digit of a scene with its outline."""

    placed: Placed
    polygons: tuple[Polygon, ...]
    mask: NDArray[np.bool_]


def imagenet_files(split: Split, scans: Sequence[Scan]) -> Iterator[FileOfSample]:
    """`imagenet/<split>/<digit>/<scan>.png`, one scan per image."""
    for scan in scans:
        rng = np.random.default_rng([SEEDS[split], scan.index])
        image = background(rng, IMAGE_PX)
        size = int(rng.integers(CROP_PX - 4, CROP_PX + 1))
        low, high = (IMAGE_PX - CROP_PX) // 2, (IMAGE_PX + CROP_PX) // 2 - size
        x, y = rng.integers(low, high + 1, 2)
        draw(image, Placed(scan, int(x), int(y), size), brightness=rng.uniform(0.7, 1.0))
        yield f"imagenet/{split}/{NAMES[scan.digit]}/{scan.index:04d}.png", png(image)


def scene_files(split: Split, scans: Sequence[Scan], num_scenes: int) -> Iterator[FileOfSample]:
    """The scenes of a split, once for COCO and once for ADE20K, followed by COCO's instances."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(1, num_scenes + 1):
        # The second number keeps these draws apart from the draws of `imagenet_files`.
        rng = np.random.default_rng([SEEDS[split], 1_000_000 + number])
        things = [_thing(placed) for placed in _place(rng, scans)]
        image, name = _scene(rng, things), f"{number:012d}.png"
        images.append(
            {"id": number, "file_name": name, "width": SCENE_PX, "height": SCENE_PX, "license": 1}
        )
        annotations += [
            _instance(thing, number, len(annotations) + number_in_scene)
            for number_in_scene, thing in enumerate(things, 1)
        ]
        yield f"coco/{split}2017/{name}", image
        yield f"ade20k/images/{ADE20K_SPLITS[split]}/{name}", image
        yield f"ade20k/annotations/{ADE20K_SPLITS[split]}/{name}", _label_map(things)
    yield f"coco/annotations/instances_{split}2017.json", _coco_document(images, annotations)


def class_files() -> Iterator[FileOfSample]:
    """ADE20K's class names; pixel value 0 is unlabeled, value n is the n-th name counted from
    1."""
    yield "ade20k/classes.json", json.dumps(["background", *NAMES]).encode()


def _place(rng: np.random.Generator, scans: Sequence[Scan]) -> list[Placed]:
    """Up to five digits of different sizes, whose cells do not overlap."""
    wanted = int(rng.integers(DIGITS_PER_SCENE[0], DIGITS_PER_SCENE[1] + 1))
    chosen = rng.choice(len(scans), wanted)
    placed: list[Placed] = []
    for _ in range(PLACING_TRIES):
        if len(placed) == wanted:
            break
        size = int(rng.integers(DIGIT_PX[0], DIGIT_PX[1] + 1))
        x, y = rng.integers(0, SCENE_PX - size + 1, 2)
        one = Placed(scans[chosen[len(placed)]], int(x), int(y), size)
        if all(_is_apart(one, other) for other in placed):
            placed.append(one)
    return placed


def _is_apart(one: Placed, other: Placed) -> bool:
    horizontally = one.x + one.size <= other.x or other.x + other.size <= one.x
    return horizontally or one.y + one.size <= other.y or other.y + other.size <= one.y


def _thing(placed: Placed) -> Thing:
    polygons = outline(placed)
    runs = coco_mask.merge(
        coco_mask.frPyObjects([list(one) for one in polygons], SCENE_PX, SCENE_PX)
    )
    return Thing(placed, polygons, coco_mask.decode(runs).astype(bool))


def _scene(rng: np.random.Generator, things: Sequence[Thing]) -> bytes:
    image = background(rng, SCENE_PX)
    for thing in things:
        draw(image, thing.placed, brightness=rng.uniform(0.7, 1.0))
    return png(image)


def _instance(thing: Thing, image_id: int, annotation_id: int) -> dict[str, Any]:
    xs = [x for polygon in thing.polygons for x in polygon[0::2]]
    ys = [y for polygon in thing.polygons for y in polygon[1::2]]
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": thing.placed.scan.digit + 1,
        "segmentation": thing.polygons,
        "area": int(thing.mask.sum()),
        "bbox": [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)],
        "iscrowd": 0,
        "scan": thing.placed.scan.index,
    }


def _label_map(things: Sequence[Thing]) -> bytes:
    labels = np.ones((SCENE_PX, SCENE_PX), np.uint8)
    for thing in things:
        labels[thing.mask] = thing.placed.scan.digit + 2
    file = BytesIO()
    Image.fromarray(labels).save(file, "PNG")
    return file.getvalue()


def _coco_document(images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> bytes:
    document = {
        "info": {
            "description": "Scenes of handwritten digits, drawn from scikit-learn's scans",
            "version": "1",
        },
        "licenses": [
            {"id": 1, "name": "CC BY 4.0", "url": "https://creativecommons.org/licenses/by/4.0/"}
        ],
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": digit + 1, "name": name, "supercategory": "digit"}
            for digit, name in enumerate(NAMES)
        ],
    }
    return json.dumps(document).encode()
