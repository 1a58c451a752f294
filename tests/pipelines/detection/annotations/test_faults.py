"""Inconsistent annotations are refused before training, and the counts of ignored annotations equal
mmdet's."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays
from hypothesis.strategies import integers
from numpy.typing import NDArray
from pycocotools.mask import decode, encode, frPyObjects

from orchestrator.errors import DataError
from pipelines.detection.annotations.coco import (
    CheckedFile,
    annotation_path,
    check_annotations,
    checked_file,
    read_annotations,
)
from pipelines.detection.annotations.mask_faults import _adds_up
from pipelines.detection.annotations.usage import Split
from pipelines.detection.config import _train_dataset
from pipelines.detection.params import DetectionParams
from pipelines.detection.traits import MethodName
from pipelines.openmmlab.library import load_library

Document = dict[str, list[dict[str, Any]]]


def document(num_images: int = 2) -> Document:
    """Two boxes of 20 x 10 on each image of 64 x 48 pixels."""
    boxes = [
        {
            "id": number + 1,
            "image_id": number // 2,
            "category_id": 7,
            "bbox": [4, 5, 20, 10],
            "area": 200,
            "iscrowd": 0,
            "segmentation": [[4, 5, 24, 5, 24, 15, 4, 15]],
        }
        for number in range(2 * num_images)
    ]
    images = [
        {"id": number, "file_name": f"{number}.png", "width": 64, "height": 48}
        for number in range(num_images)
    ]
    return {"images": images, "annotations": boxes, "categories": [{"id": 7, "name": "red"}]}


def write(root: Path, content: object, split: Split = "train") -> Path:
    path = annotation_path(root, split)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return root


def _params(root: Path, method: MethodName) -> DetectionParams:
    return DetectionParams(method=method, backbone="p.checkpoint", data=str(root))


def _box(**fields: object) -> Callable[[Document], None]:
    return lambda content: content["annotations"][1].update(fields)


def _image(**fields: object) -> Callable[[Document], None]:
    return lambda content: content["images"][1].update(fields)


def _category(**fields: object) -> Callable[[Document], None]:
    return lambda content: content["categories"][0].update(fields)


def _crowds(content: Document) -> None:
    for box in content["annotations"]:
        box["iscrowd"] = 1


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (
            _box(bbox=[4, 5, -1, 9]),
            (
                "1 boxes of negative size: annotations[1] (id 2) bbox [4, 5, -1, 9] area 200, "
                "image 64x48"
            ),
        ),
        (
            _box(area=-3),
            "1 boxes of negative size: annotations[1] (id 2) bbox [4, 5, 20, 10] area -3",
        ),
        (
            _box(bbox=[64, 5, 9, 9]),
            "1 boxes wholly outside their image: annotations[1] (id 2) bbox [64, 5, 9, 9]",
        ),
        (_box(bbox=[4, -9, 9, 9]), "1 boxes wholly outside their image: annotations[1] (id 2)"),
        (
            _box(bbox=[4, 5, float("nan"), 9]),
            "1 annotations whose bbox is not four finite numbers, or whose area",
        ),
        (_box(bbox=[4, 5, 9]), "1 annotations whose bbox is not four finite numbers"),
        (_box(bbox=[4, 5, 9, 10**400]), "1 annotations whose bbox is not four finite numbers"),
        (
            _box(area="9"),
            (
                "1 annotations whose bbox is not four finite numbers, or whose area is not a "
                "finite number: annotations[1]"
            ),
        ),
        (
            _box(image_id=9),
            "1 annotations whose image_id is not in 'images': annotations[1] (id 2) of image",
        ),
        (
            _box(category_id=9),
            "1 annotations whose category_id is not in 'categories': annotations[1] (id 2)",
        ),
        (_box(id=1), "1 annotations with a repeated id: annotations[1] (id 1)"),
        (
            _box(id="2"),
            (
                "1 annotations whose id, image_id, category_id are not 64-bit integers: "
                "annotations[1] (id '2',"
            ),
        ),
        (
            _box(id=2.0),
            "64-bit integers: annotations[1] (id 2.0, image_id 0, category_id 7)",
        ),
        (
            _box(id=True),
            "64-bit integers: annotations[1] (id True, image_id 0, category_id 7)",
        ),
        (
            _box(id=2**63),
            "64-bit integers: annotations[1] (id 9223372036854775808, image_id 0",
        ),
        (
            _box(image_id="0"),
            "64-bit integers: annotations[1] (id 2, image_id '0', category_id 7)",
        ),
        (
            _box(category_id=7.0),
            "64-bit integers: annotations[1] (id 2, image_id 0, category_id 7.0)",
        ),
        (
            _box(category_id=None),
            "64-bit integers: annotations[1] (id 2, image_id 0, category_id None)",
        ),
        (
            _image(id=False),
            "1 images whose id are not 64-bit integers: images[1] (id False)",
        ),
        (
            _box(bbox="4,5,20,10"),
            "whose area is not a finite number: annotations[1] (id 2) bbox '4,5,20,10' area 200",
        ),
        (
            _box(bbox=None),
            "whose area is not a finite number: annotations[1] (id 2) bbox None area 200",
        ),
        (
            _box(bbox=[4, "5", 20, 10]),
            "whose area is not a finite number: annotations[1] (id 2) bbox [4, '5', 20, 10]",
        ),
        (
            _box(bbox=[4, True, 20, 10]),
            "whose area is not a finite number: annotations[1] (id 2) bbox [4, True, 20, 10]",
        ),
        (
            _box(area=True),
            "whose area is not a finite number: annotations[1] (id 2) bbox [4, 5, 20, 10] area "
            "True",
        ),
        (
            _box(iscrowd="no"),
            (
                "1 annotations whose iscrowd or ignore is neither 0 nor 1: annotations[1] (id 2) "
                "iscrowd"
            ),
        ),
        (_box(iscrowd=None), "neither 0 nor 1: annotations[1] (id 2) iscrowd None"),
        (_box(iscrowd=2), "neither 0 nor 1: annotations[1] (id 2) iscrowd 2"),
        (_box(iscrowd=float("nan")), "neither 0 nor 1: annotations[1] (id 2) iscrowd nan"),
        (_box(iscrowd=[0]), "neither 0 nor 1: annotations[1] (id 2) iscrowd [0]"),
        (_box(ignore="false"), "neither 0 nor 1: annotations[1] (id 2) iscrowd 0 ignore 'false'"),
        (
            _category(name=None),
            "1 categories whose name is empty, or neither a string nor a number: categories[0]",
        ),
        (_category(name=True), "neither a string nor a number: categories[0] (id 7) name True"),
        (_category(name=" "), "neither a string nor a number: categories[0] (id 7) name ' '"),
        (
            _category(name=["red"]),
            "neither a string nor a number: categories[0] (id 7) name ['red']",
        ),
        (
            _category(name=float("inf")),
            "neither a string nor a number: categories[0] (id 7) name inf",
        ),
        (
            lambda content: content["categories"].extend(
                [{"id": 8, "name": 2}, {"id": 9, "name": "2"}]
            ),
            "categories with the same name: 2; rename them",
        ),
        (_image(id=0), "1 images with a repeated id: images[1] (id 0)"),
        (
            _image(width=0),
            "1 images whose width or height is not a positive integer, or whose file_name is not",
        ),
        (_image(file_name=None), "or whose file_name is not a string: images[1] (id 1)"),
        (lambda content: content.update(annotations=[]), "'annotations' is missing or empty"),
        (lambda content: content.update(images=[]), "'images' is missing or empty"),
        (
            _crowds,
            (
                "no object to train on: 0 of 4 annotations have a side below 1 pixel, area 0 or "
                "`ignore`"
            ),
        ),
        (
            lambda content: [image.update(width=31) for image in content["images"]],
            "no image to train on: all images with objects have a side below 32 pixels",
        ),
    ],
)
def test_invalid_annotation_file_is_refused(
    tmp_path: Path, spoil: Callable[[Document], object], fault: str
) -> None:
    content = document()
    spoil(content)
    with pytest.raises(
        DataError,
        match=rf"(?s)instances_train2017\.json:.*{re.escape(fault)}.*correct the annotation",
    ):
        read_annotations(write(tmp_path, content), "train")


def test_val_without_objects_cannot_be_measured(tmp_path: Path) -> None:
    content = document()
    _crowds(content)
    with pytest.raises(
        DataError, match="all 4 annotations are crowds or have `ignore`: AP cannot be measured"
    ):
        read_annotations(write(tmp_path, content, "val"), "val")


def test_all_faults_are_reported_with_ten_examples_of_each(tmp_path: Path) -> None:
    content = document(num_images=8)
    for box in content["annotations"]:
        box["bbox"] = [99, 99, 9, 9]
    content["annotations"][0] |= {"category_id": 5, "image_id": 77}
    with pytest.raises(DataError) as caught:
        read_annotations(write(tmp_path, content), "train")
    _, image, category, outside, remedy = str(caught.value).splitlines()
    assert image.startswith("  1 annotations whose image_id")
    assert category.startswith("  1 annotations whose category_id")
    assert outside.count("annotations[") == 10
    assert outside.endswith(" and 5 more;")  # the annotation without an image cannot be outside it
    assert remedy == "  correct the annotation file"


@pytest.mark.parametrize("mask", ["rle", 5, [4, 5, 24, 5, 24, 15], {"counts": None}])
def test_a_mask_that_mmdet_cannot_read_is_refused(tmp_path: Path, mask: object) -> None:
    content = document()
    content["annotations"][3]["segmentation"] = mask
    file = read_annotations(write(tmp_path, content), "train")
    with pytest.raises(
        DataError,
        match=r"1 annotations have neither polygons nor .*: annotations\[3\] \(id 4\); mask",
    ):
        check_annotations([file], _params(tmp_path, "mask_rcnn"))
    check_annotations([file], _params(tmp_path, "fcos"))


RUNS = {"counts": [245, 10, 2817], "size": [48, 64]}
"""Run lengths of a mask in an image of 64 x 48 pixels."""
TEXT = encode(decode(frPyObjects(RUNS, 48, 64)))["counts"].decode()
"""The same run lengths as text."""


@pytest.mark.parametrize(
    ("mask", "fault"),
    [
        ([[4, 5, 24, 5, 24, "15"]], "polygons with values that are not finite numbers"),
        (
            [[4, 5, 24, 5, 24, 15], [4, 5, None, 5, 24, 15]],
            "polygons with values that are not finite numbers",
        ),
        ([[4, 5, 24, 5, 24, float("nan")]], "polygons with values that are not finite numbers"),
        ([[float("nan"), 5, 24, 5, 24, 15]], "polygons with values that are not finite numbers"),
        ([[4, 5, 24, 5, 24, float("-inf")]], "polygons with values that are not finite numbers"),
        ([[4, 5.5, 24, 5, 24, 10**400]], "polygons with values that are not finite numbers"),
        ([[4, 5, 24, 5, 24, True]], "polygons with values that are not finite numbers"),
        (
            [[[4, 5], [24, 5], [24, 15]]],
            "polygons with values that are not finite numbers: annotations[3] (id 4)",
        ),
        (
            [[4, 5, 24, 5, 24, 15, 9]],
            "polygons with an odd number of coordinates: annotations[3] (id 4)",
        ),
        (
            [[4, 5, 24, 5, 24, 15], [1, 2, 3]],
            "polygons with an odd number of coordinates: annotations[3] (id 4)",
        ),
        (
            {**RUNS, "size": [48.0, 64.0]},
            "run lengths whose size is not their image's height and width",
        ),
        (
            {**RUNS, "size": [64, 48]},
            (
                "run lengths whose size is not their image's height and width: annotations[3] (id "
                "4) size [64, 48] instead"
            ),
        ),
        ({**RUNS, "size": "48x64"}, "run lengths whose size is not their image's height and width"),
        (
            {"counts": TEXT, "size": [30, 20]},
            "run lengths whose size is not their image's height and width",
        ),
        (
            {**RUNS, "counts": [245, 10, 17]},
            (
                "run lengths that do not add up to the pixels of their image: annotations[3] "
                "(id 4) in an image of 3072 pixels"
            ),
        ),
        ({**RUNS, "counts": []}, "run lengths that do not add up"),
        ({**RUNS, "counts": [245, -10, 2837]}, "run lengths that do not add up"),
        ({**RUNS, "counts": [245, 10, None]}, "run lengths that do not add up"),
        ({**RUNS, "counts": "PPYo1"}, "run lengths that do not add up"),
        ({**RUNS, "counts": "no text of COCO's"}, "run lengths that do not add up"),
    ],
)
def test_a_mask_that_training_would_misread_is_refused(
    tmp_path: Path, mask: object, fault: str
) -> None:
    content = document()
    content["annotations"][3]["segmentation"] = mask
    file = read_annotations(write(tmp_path, content), "train")
    with pytest.raises(
        DataError,
        match=rf"json: 1 annotations have {re.escape(fault)}.*; mask_rcnn trains on masks",
    ):
        check_annotations([file], _params(tmp_path, "mask_rcnn"))


def test_masks_in_all_three_formats_are_accepted(tmp_path: Path) -> None:
    content = document()
    content["annotations"][0]["segmentation"] = [[4.5, -5, 24, 5, 24, 15], []]
    content["annotations"][1]["segmentation"] = RUNS
    content["annotations"][2]["segmentation"] = {**RUNS, "counts": TEXT}
    check_annotations(
        [read_annotations(write(tmp_path, content), "train")], _params(tmp_path, "mask_rcnn")
    )


@given(mask=arrays(np.uint8, (9, 13), elements=integers(0, 1)))
def test_truncated_run_lengths_do_not_add_up(
    mask: NDArray[np.uint8],
) -> None:
    text = encode(np.asfortranarray(mask))["counts"].decode()
    assert _adds_up(text, 9 * 13)
    assert not _adds_up(text[:-1], 9 * 13)


def test_val_mask_must_begin_with_three_points(
    tmp_path: Path,
) -> None:
    """faster-coco-eval takes [1, 2, 3, 4] and all polygons after it for boxes. mmdet leaves the
    polygon out."""
    content = document()
    content["annotations"][3]["segmentation"] = [[1, 2, 3, 4], [4, 5, 24, 5, 24, 15]]
    root = write(tmp_path, content)
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    params = _params(tmp_path, "mask_rcnn")
    check_annotations([read_annotations(root, "train")], params)
    with pytest.raises(
        DataError,
        match=r"1 annotations begin with a polygon that has .*: annotations\[3\] \(id 4\); mask",
    ):
        check_annotations([read_annotations(root, "val")], params)


def test_training_ignores_the_same_annotations_as_mmdet(tmp_path: Path) -> None:
    content = document(num_images=7)
    boxes = content["annotations"]
    boxes[1]["bbox"] = [60, 5, 20, 10]  # reaches beyond its image of 64 pixels
    boxes[2]["bbox"] = [4, 5, 20, 0.0]  # as in two annotations of COCO's train2017
    boxes[3]["area"] = 0
    boxes[4] |= {"ignore": 1}
    boxes[6]["iscrowd"] = boxes[7]["iscrowd"] = 1
    boxes[8]["segmentation"] = [[1, 2, 3, 4]]
    content["images"][5]["height"] = 31
    del boxes[12:]
    file = read_annotations(write(tmp_path, content), "train")
    assert file.use == (
        "instances_train2017.json: 5 of 7 images to train on; objects: 7; "
        "objects that reach beyond their image and are clipped: 1; "
        "crowds, used neither as object nor as background: 2; "
        "annotations ignored (a side below 1 pixel, area 0, or `ignore`): 3; "
        "images left out because they have no annotation: 1; "
        "images left out because a side is below 32 pixels: 1; "
        "images with only crowds or ignored annotations, which train as background: 2; "
        "masks without a polygon of three points, ignored by methods with masks: 1"
    )
    rows = [
        row["instances"]
        for row in as_mmdet_reads(checked_file(file, [], tmp_path / "copy.json"), tmp_path)
    ]
    assert len(rows) == 5
    # Two objects are in the small image.
    assert sum(not one["ignore_flag"] for row in rows for one in row) == 7 - 2
    assert sum(not any(not one["ignore_flag"] for one in row) for row in rows) == 2


def as_mmdet_reads(
    file: CheckedFile, root: Path, classes: Sequence[str] = ("red",)
) -> list[dict[str, Any]]:
    load_library("mmdet")
    from mmdet.registry import DATASETS  # noqa: PLC0415  after the ops are installed

    config = _train_dataset(_params(root, "fcos"), file, classes)
    dataset = DATASETS.build({**config, "_scope_": "mmdet", "lazy_init": True})
    dataset.full_init()
    return [dataset.get_data_info(place) for place in range(len(dataset))]
