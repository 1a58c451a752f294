"""The matching of detections and objects, compared with results by hand."""

from __future__ import annotations

from typing import Any

from pycocotools.coco import COCO

from pipelines.detection.matching import confuse
from pipelines.detection.scores import measure_precision

CAT, DOG = 7, 9
Box = tuple[float, float, float, float]


def _truth(*objects: tuple[int, Box], crowds: tuple[tuple[int, Box], ...] = ()) -> COCO:
    truth = COCO()
    entries = [*((*one, 0) for one in objects), *((*one, 1) for one in crowds)]
    truth.dataset = {
        "images": [{"id": 1}, {"id": 2}],
        "categories": [{"id": CAT, "name": "cat"}, {"id": DOG, "name": "dog"}],
        "annotations": [
            {
                "id": number,
                "image_id": 1,
                "category_id": category,
                "bbox": list(box),
                "iscrowd": crowd,
                "area": 100.0,
            }
            for number, (category, box, crowd) in enumerate(entries, 1)
        ],
    }
    truth.createIndex()
    return truth


def _found(category: int, box: Box, score: float, image_id: int = 1) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": category, "bbox": list(box), "score": score}


HERE, THERE = (0.0, 0.0, 10.0, 10.0), (50.0, 50.0, 10.0, 10.0)


def test_rows_are_true_classes_and_columns_predicted_ones() -> None:
    """One object is found, one gets the wrong class and one is missed. Another image has a
    detection without an object."""
    truth = _truth((CAT, HERE), (DOG, THERE), (DOG, (80.0, 0.0, 10.0, 10.0)))
    results = [
        _found(CAT, HERE, 0.9),
        _found(CAT, (51.0, 50.0, 10.0, 10.0), 0.5),
        _found(DOG, HERE, 0.8, image_id=2),
    ]
    confusion = confuse(truth, results)
    assert confusion.classes == ("cat", "dog", "background")
    assert confusion.counts == {(0, 0): 1, (1, 0): 1, (1, 2): 1, (2, 1): 1}


def test_an_object_matches_the_detection_with_the_highest_score() -> None:
    results = [_found(DOG, HERE, 0.6), _found(CAT, (0.0, 1.0, 10.0, 10.0), 0.7)]
    assert confuse(_truth((CAT, HERE)), results).counts == {(0, 0): 1, (2, 1): 1}


def test_low_scores_and_small_overlaps_do_not_match() -> None:
    results = [_found(CAT, HERE, 0.29), _found(CAT, (6.0, 0.0, 10.0, 10.0), 0.9)]
    assert confuse(_truth((CAT, HERE)), results).counts == {(0, 2): 1, (2, 0): 1}


def test_crowd_is_not_an_object_and_absorbs_its_detections() -> None:
    truth = _truth(crowds=((CAT, (0.0, 0.0, 100.0, 100.0)),))
    assert confuse(truth, [_found(CAT, HERE, 0.9), _found(CAT, THERE, 0.9)]).counts == {}
    assert confuse(truth, [_found(DOG, HERE, 0.9)]).counts == {(2, 1): 1}


def test_no_detections_give_an_average_precision_of_zero() -> None:
    truth = _truth((CAT, HERE))
    assert confuse(truth, []).counts == {(0, 2): 1}
    precision = measure_precision(truth, [], "bbox")
    assert precision.average() == precision.average(iou=0.5) == 0
    assert precision.average(label=1) != precision.average(label=1)  # NaN, because no dog exists
