"""All readers of an annotation file find the same objects, in any notation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from orchestrator.errors import DataError
from pipelines.detection.annotations.coco import (
    Annotations,
    CheckedFile,
    check_annotations,
    checked_file,
    read_annotations,
)
from pipelines.detection.annotations.usage import Split
from pipelines.detection.details import complete_details
from pipelines.detection.params import DetectionEvaluationParams, DetectionParams
from pipelines.detection.scores import CocoScores, class_rows, load_truth, measure_precision
from tests.pipelines.detection.annotations.test_faults import (
    Document,
    as_mmdet_reads,
    document,
    write,
)

Spoil = Callable[[Document], None]


def _two_classes() -> Document:
    """Two images, each with a second box of a second class."""
    content = document()
    content["categories"].append({"id": 8, "name": "blue"})
    for box in content["annotations"][1::2]:
        box["category_id"] = 8
    return content


def _names(*names: object) -> Spoil:
    def spoil(content: Document) -> None:
        for category, name in zip(content["categories"], names, strict=True):
            category["name"] = name

    return spoil


def _all(**fields: object) -> Spoil:
    def spoil(content: Document) -> None:
        for box in content["annotations"]:
            box.update(fields)

    return spoil


def _ids(*ids: int) -> Spoil:
    def spoil(content: Document) -> None:
        for box, number in zip(content["annotations"], ids, strict=True):
            box["id"] = number

    return spoil


SAME: dict[str, Spoil] = {
    "a number as name": _names("cat", 2),
    "numbers as names": _names(1, 2.5),
    "a name beyond ASCII": _names("café", "blue"),
    "crowd as text": _all(iscrowd="0"),
    "crowd as boolean": _all(iscrowd=False),
    "crowd as float": _all(iscrowd=0.0),
    "ignore as text": _all(ignore="0"),
    "ignore as null": _all(ignore=None),
    "ignore as boolean": _all(ignore=False),
    "ids from 0": _ids(0, 1, 2, 3),
    "ids below 0": _ids(-5, -1, 1, 0),
}
"""Changes of notation that keep all four objects the same."""


def _checked(root: Path, spoil: Spoil, split: Split = "train") -> tuple[Annotations, CheckedFile]:
    content = _two_classes()
    spoil(content)
    file = read_annotations(write(root, content, split), split)
    return file, checked_file(file, [], root / f"copy_{split}.json")


def _perfect(file: CheckedFile) -> dict[str, float]:
    """AP in % by class, if the detections are the objects themselves."""
    truth = load_truth(file.path)
    found: list[dict[str, Any]] = [
        {**{name: box[name] for name in ("image_id", "category_id", "bbox")}, "score": 1.0}
        for box in truth.dataset["annotations"]
    ]
    rows = class_rows(truth, {"box": measure_precision(truth, found, "bbox")})
    return {str(row["class"]): float(row["box_ap"] or 0) for row in rows}


@pytest.mark.parametrize("spoil", SAME.values(), ids=SAME)
def test_all_readers_find_the_same_objects_and_class_names(spoil: Spoil, tmp_path: Path) -> None:
    file, train = _checked(tmp_path, spoil)
    instances = [
        one for image in as_mmdet_reads(train, tmp_path, file.classes) for one in image["instances"]
    ]
    assert sorted((one["bbox_label"], one["ignore_flag"]) for one in instances) == [
        (0, 0),
        (0, 0),
        (1, 0),
        (1, 0),
    ]
    _, val = _checked(tmp_path, spoil, "val")
    assert train.num_objects == val.num_objects == 4
    assert _perfect(val) == dict.fromkeys(file.classes, pytest.approx(100))
    CocoScores(str(val.path), num_objects=val.num_objects, has_masks=False)


@pytest.mark.parametrize("flag", [1, "1", True, 1.0])
def test_crowd_flag_is_read_in_any_notation(flag: object, tmp_path: Path) -> None:
    def spoil(content: Document) -> None:
        content["annotations"][0]["iscrowd"] = flag

    file, train = _checked(tmp_path, spoil)
    instances = [
        one for image in as_mmdet_reads(train, tmp_path, file.classes) for one in image["instances"]
    ]
    assert sorted(one["ignore_flag"] for one in instances) == [0, 0, 0, 1]
    assert _checked(tmp_path, spoil, "val")[1].num_objects == train.num_objects == 3


def test_copy_has_the_same_content_for_any_encoding(tmp_path: Path) -> None:
    content = _two_classes()
    content["categories"][0]["name"] = "café"
    path = write(tmp_path, content) / "annotations/instances_train2017.json"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path.write_text(json.dumps(content, ensure_ascii=False), encoding=encoding)
        copy = checked_file(read_annotations(tmp_path, "train"), [], tmp_path / "copy.json").path
        assert json.loads(copy.read_text(encoding="ascii")) == content


def test_file_that_all_tools_read_alike_is_not_copied(tmp_path: Path) -> None:
    file, train = _checked(tmp_path, lambda _: None)
    assert train == CheckedFile(file.path, 4)


def test_objects_on_left_out_images_are_not_counted(tmp_path: Path) -> None:
    file, _ = _checked(tmp_path, lambda content: content["images"][0].update(width=31, height=48))
    assert checked_file(file, [], tmp_path / "copy.json").num_objects == 2
    with pytest.raises(
        DataError, match=r"train2017\.json: no object is left, because no image with objects"
    ):
        checked_file(file, file.image_paths[1:], tmp_path / "copy.json")


def test_dataset_with_missing_objects_fails_before_training(tmp_path: Path) -> None:
    """mmdet gets the original file instead of the copy and cannot find a category whose name is a
    number."""
    file, train = _checked(tmp_path, _names("cat", 2))
    with pytest.raises(
        DataError, match=r"train2017\.json: holds 4 objects, but its reader finds 2"
    ):
        as_mmdet_reads(CheckedFile(file.path, train.num_objects), tmp_path, file.classes)


def test_evaluator_with_missing_objects_fails_before_training(tmp_path: Path) -> None:
    file, val = _checked(tmp_path, _all(iscrowd="0"), "val")
    with pytest.raises(DataError, match=r"val2017\.json: holds 4 objects, but its reader finds 0"):
        CocoScores(str(file.path), num_objects=val.num_objects, has_masks=False)


def _pairs(content: Document) -> None:
    for box in content["annotations"]:
        box["segmentation"] = [[4, 5], [24, 5], [24, 15], [4, 15]]


def test_polygons_as_lists_of_pairs_are_refused(tmp_path: Path) -> None:
    mask_rcnn = DetectionParams(method="mask_rcnn", backbone="p.checkpoint", data=str(tmp_path))
    boxes = DetectionParams(method="fcos", backbone="p.checkpoint", data=str(tmp_path))
    train, val = _checked(tmp_path, _pairs)[0], _checked(tmp_path, _pairs, "val")[0]
    fault = (
        r"no object to train on: 4 masks have no polygon with three points; .* in one list, "
        r"\[x1, y1, x2, y2, x3"
    )
    with pytest.raises(DataError, match=rf"train2017\.json: {fault}.*; mask_rcnn trains on masks"):
        check_annotations([train], mask_rcnn)
    with pytest.raises(
        DataError,
        match=r"val2017\.json: 4 annotations begin with a polygon that has fewer than three",
    ):
        check_annotations([val], mask_rcnn)
    check_annotations([train, val], boxes)


def test_polygons_as_pairs_are_counted_among_valid_masks(tmp_path: Path) -> None:
    def spoil(content: Document) -> None:
        content["annotations"][0]["segmentation"] = [[4, 5], [24, 5], [24, 15]]

    file, _ = _checked(tmp_path, spoil)
    check_annotations(
        [file], DetectionParams(method="mask_rcnn", backbone="p.checkpoint", data=str(tmp_path))
    )
    assert file.use.endswith(
        "masks without a polygon of three points, ignored by methods with masks: 1"
    )


@pytest.mark.parametrize("mask", ["rle", [4, 5, 24, 5], {"counts": "0", "size": [9, 9]}])
def test_evaluation_of_boxes_paints_no_masks(mask: object, tmp_path: Path) -> None:
    _, val = _checked(tmp_path, _all(segmentation=mask), "val")
    for number in range(2):
        Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(tmp_path / f"{number}.png")
    (tmp_path / "predictions.bbox.json").write_text("[]")
    params = DetectionEvaluationParams(method="fcos", backbone="p.checkpoint", data=str(tmp_path))
    complete_details(tmp_path, params, ann_file=val.path, images_dir=tmp_path, has_masks=False)
    assert len(list((tmp_path / "painted").iterdir())) == 2
