"""Measures COCO's average precision of boxes and masks, overall and by class. It covers all ranks
and counts each image once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray
from pycocotools import mask as rle

from pipelines.details.table import Row, percent, write_per_class
from pipelines.detection.dataset import check_num_objects
from pipelines.detection.traits import AVERAGES
from pipelines.openmmlab.library import METRICS, BaseMetric, quiet_stdout

PREFIX = "coco"
NOUNS = {"bbox": "box", "segm": "mask"}
"""COCO's IoU types, and their names in our metrics."""
AREAS = ("all", "small", "medium", "large")
"""COCO's area ranges, in its order: small is below 32 x 32 pixels, large above 96 x 96."""

Result = dict[str, Any]
"""One detection in COCO's result format: image_id, category_id, score, and bbox or segmentation."""


def predictions_path(details_dir: Path, iou_type: str) -> Path:
    return details_dir / f"predictions.{iou_type}.json"


@METRICS.register_module()
class CocoScores(BaseMetric):  # type: ignore[misc]  # untyped base
    """The evaluator of detection, for training and evaluations. mmdet's own rounds to 0.1 % and
    returns no metrics if nothing is detected.

    Rank 0 writes the table by class and all detections to `details_dir`, if given.
    """

    default_prefix = PREFIX

    def __init__(
        self,
        ann_file: str,
        *,
        num_objects: int,
        has_masks: bool,
        details_dir: str | None = None,
        **base: Any,
    ) -> None:
        """Raises DataError unless COCO's tools find `num_objects` objects in `ann_file`."""
        super().__init__(**base)
        self._truth = load_truth(Path(ann_file))
        ids = self._truth.getAnnIds(self._truth.getImgIds(), self._truth.getCatIds())
        num_held = sum(not one["iscrowd"] for one in self._truth.loadAnns(ids))
        check_num_objects(ann_file, num_held=num_held, num_counted=num_objects)
        self._iou_types = ("bbox", "segm") if has_masks else ("bbox",)
        self._details_dir = None if details_dir is None else Path(details_dir)

    def process(self, data_batch: object, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keeps the detections as arrays, which the ranks gather. In COCO's format the results on
        COCO's val would take 500 MB per rank."""
        self.results += [_arrays_of(sample, self._iou_types) for sample in data_samples]

    def compute_metrics(self, results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """The metrics by our names, in %. NaN if val has no object, or none of that size."""
        category_ids = [category["id"] for category in self._truth.dataset["categories"]]
        found = {
            name: [one for image in results for one in _results_of(image, name, category_ids)]
            for name in self._iou_types
        }
        precisions = {
            NOUNS[name]: measure_precision(self._truth, found[name], name)
            for name in self._iou_types
        }
        if self._details_dir is not None:
            self._details_dir.mkdir(parents=True, exist_ok=True)
            write_per_class(self._details_dir, class_rows(self._truth, precisions))
            for name, detections in found.items():
                predictions_path(self._details_dir, name).write_text(json.dumps(detections))
        return {
            f"{noun}_{name}": 100 * precision.average(**which)
            for noun, precision in precisions.items()
            for name, which in AVERAGES.items()
        }


@dataclass(frozen=True)
class CocoPrecision:
    """COCO's precision by IoU threshold, recall, class and area range, with -1 for missing
    objects."""

    precision_TRKA: NDArray[np.float64]  # noqa: N815
    iou_thresholds_T: NDArray[np.float64]  # noqa: N815

    def average(
        self, *, iou: float | None = None, area: str = "all", label: int | None = None
    ) -> float:
        """AP, by default over the IoU thresholds from .5 to .95 and all classes. NaN if there is no
        object."""
        areas = [AREAS.index(area)]
        labels = slice(None) if label is None else [label]
        chosen = self.precision_TRKA[:, :, :, areas][:, :, labels]
        if iou is not None:
            chosen = chosen[np.isclose(self.iou_thresholds_T, iou)]
        measured = chosen[chosen > -1]
        return float(measured.mean()) if measured.size else float("nan")


def load_truth(path: Path) -> COCO:
    with quiet_stdout():
        return COCO(str(path))


def measure_precision(truth: COCO, results: Sequence[Result], iou_type: str) -> CocoPrecision:
    """Measures by the official protocol, with at most 100 detections per image. `results` may be
    empty: then AP is 0."""
    with quiet_stdout():
        evaluation = COCOeval_faster(truth, _indexed(truth, results, iou_type), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
    return CocoPrecision(
        evaluation.eval["precision"][..., -1], np.asarray(evaluation.params.iouThrs)
    )


def class_rows(truth: COCO, precisions: Mapping[str, CocoPrecision]) -> list[Row]:
    """AP of each class in %, for boxes and masks, and its number of objects without crowds."""
    boxes = [box for box in truth.dataset["annotations"] if not box["iscrowd"]]
    label_of = {category_id: label for label, category_id in enumerate(sorted(truth.getCatIds()))}
    rows: list[Row] = []
    for category in truth.dataset["categories"]:
        label = label_of[category["id"]]  # the evaluation sorts classes by id, but the file may not
        averages = {
            f"{noun}_{name.replace('map', 'ap')}": percent(precision.average(**which, label=label))
            for noun, precision in precisions.items()
            for name, which in AVERAGES.items()
        }
        num_objects = sum(box["category_id"] == category["id"] for box in boxes)
        rows.append({"class": category["name"], **averages, "num_objects": num_objects})
    return rows


def _indexed(truth: COCO, results: Sequence[Result], iou_type: str) -> COCO:
    """`results` in the form that the evaluation needs. A mask has no box, so that its size is the
    area of the mask."""
    if results:
        return truth.loadRes([dict(one) for one in results])
    nothing = COCO()
    nothing.dataset = {
        "images": truth.dataset["images"],
        "categories": truth.dataset["categories"],
        "annotations": [],
    }
    nothing.createIndex()
    return nothing


def _arrays_of(sample: Mapping[str, Any], iou_types: Sequence[str]) -> dict[str, Any]:
    """The detections of an image: its id, labels, boxes with scores and, if requested, masks with
    scores."""
    found = sample["pred_instances"]
    arrays = {name: found[name].cpu().numpy() for name in ("labels", "bboxes", "scores")}
    image = {
        "image_id": sample["img_id"],
        "labels": arrays["labels"],
        "bbox": (arrays["bboxes"], arrays["scores"]),
    }
    if "segm" not in iou_types:
        return image
    masks_DHW = found["masks"].cpu().numpy()
    masks = [rle.encode(np.asfortranarray(mask_HW, np.uint8)) for mask_HW in masks_DHW]
    return {**image, "segm": (masks, found.get("mask_scores", found["scores"]).cpu().numpy())}


def _results_of(
    image: Mapping[str, Any], iou_type: str, category_ids: Sequence[int]
) -> list[Result]:
    """The result of `_arrays_of` in COCO's format."""
    shapes, scores = image[iou_type]
    formatted = _boxes(shapes) if iou_type == "bbox" else _masks(shapes)
    return [
        {"image_id": image["image_id"], "category_id": category_ids[label], **shape, "score": score}
        for label, shape, score in zip(
            image["labels"].tolist(), formatted, scores.tolist(), strict=True
        )
    ]


def _boxes(corners_D4: NDArray[np.float32]) -> list[Result]:
    """Converts boxes from two corners to corner, width and height."""
    return [{"bbox": [x0, y0, x1 - x0, y1 - y0]} for x0, y0, x1, y1 in corners_D4.tolist()]


def _masks(masks: Sequence[Mapping[str, Any]]) -> list[Result]:
    """Masks with their run lengths as text, for JSON."""
    return [
        {"segmentation": {"size": one["size"], "counts": one["counts"].decode()}} for one in masks
    ]
