"""The plan finds faults of a data set in COCO's layout, and the digest changes with the bytes."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from orchestrator.errors import DataError
from pipelines.data.digests import digest_of_file
from pipelines.detection.annotations.coco import checked_file, fingerprint, read_annotations
from pipelines.detection.kind import KIND
from pipelines.detection.params import DetectionParams
from tests.pipelines.openmmlab.harness import write_coco


def _params(root: Path, **fields: Any) -> DetectionParams:
    return DetectionParams(
        **{"method": "mask_rcnn", "backbone": "p.checkpoint", "data": str(root), **fields}
    )


def _edit(root: Path, split: str, **parts: object) -> None:
    path = root / "annotations" / f"instances_{split}2017.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **parts}))


BOX_ALONE = json.dumps(
    {
        "images": [{"id": 1, "file_name": "1.png", "width": 64, "height": 64}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9]}],
        "categories": [{"id": 1, "name": "red"}],
    }
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_coco(tmp_path / "coco", num_train=2, num_val=2)


def test_fingerprint_depends_only_on_images_and_annotations(root: Path, tmp_path: Path) -> None:
    before = KIND.fingerprint(_params(root))
    copy = Path(shutil.copytree(root, tmp_path / "copy"))
    assert fingerprint(_params(copy)) == before
    _edit(copy, "val", info={"version": 2})
    assert fingerprint(_params(copy)) != before


def test_edit_of_equal_size_changes_fingerprint_of_large_data(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.data.digests.CONTENT_LIMIT_BYTES", 0)
    before, path = fingerprint(_params(root)), root / "annotations/instances_train2017.json"
    path.write_text(path.read_text().replace('"category_id": 7', '"category_id": 8', 1))
    assert fingerprint(_params(root)) != before


@pytest.mark.parametrize("gone", ["annotations", "train2017", "val2017"])
def test_missing_folder_is_named_in_the_error(root: Path, gone: str) -> None:
    shutil.rmtree(root / gone)
    with pytest.raises(DataError, match=f"{root}/{gone}: the data folder is missing"):
        fingerprint(_params(root))


def test_missing_annotation_file_is_named_in_the_error(root: Path) -> None:
    path = root / "annotations" / "instances_val2017.json"
    path.unlink()
    with pytest.raises(
        DataError, match=f"{re.escape(str(path))}: the annotation file cannot be read"
    ):
        fingerprint(_params(root))


def test_num_classes_must_agree_with_the_annotations(root: Path) -> None:
    fingerprint(_params(root, num_classes=2))
    with pytest.raises(
        DataError, match=r"instances_train2017\.json: has 2 classes, but num_classes is 3"
    ):
        fingerprint(_params(root, num_classes=3))


def test_classes_of_the_job_must_match_the_categories(root: Path) -> None:
    fingerprint(_params(root, classes=("red", "blue")))
    with pytest.raises(
        DataError, match=r"instances_train2017\.json: lacks the classes person; correct `classes`"
    ):
        fingerprint(_params(root, classes=("person",)))


def test_splits_must_have_the_same_categories(root: Path) -> None:
    _edit(root, "val", categories=[{"id": 7, "name": "red"}, {"id": 8, "name": "green"}])
    with pytest.raises(DataError, match=r"differ in their categories: blue, green"):
        fingerprint(_params(root))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "is not JSON"),
        ("[]", "'images' is missing or empty"),
        ('{"images": []}', "'images' is missing or empty"),
        ('{"images": [{"id": 1}]}', r"images\[0\] lacks file_name, width, height"),
        (BOX_ALONE, r"annotations\[0\] lacks area, iscrowd"),
    ],
)
def test_annotation_file_that_is_not_coco_is_refused(root: Path, text: str, fault: str) -> None:
    (root / "annotations" / "instances_train2017.json").write_text(text)
    with pytest.raises(DataError, match=rf"(?s)instances_train2017\.json:.*{fault}"):
        fingerprint(_params(root))


def test_annotations_without_polygons_train_only_boxes(
    tmp_path: Path,
) -> None:
    root = write_coco(tmp_path / "boxes", num_train=2, num_val=2, has_polygons=False)
    fault = (
        r"train2017\.json: 4 annotations have no segmentation: annotations\[0\] \(id 1\), .*; "
        r"mask_rcnn trains on masks"
    )
    with pytest.raises(DataError, match=fault):
        fingerprint(_params(root))
    assert len(fingerprint(_params(root, method="fcos"))) == 64


def test_categories_with_the_same_name_are_refused(root: Path) -> None:
    _edit(root, "train", categories=[{"id": 7, "name": "red"}, {"id": 8, "name": "red"}])
    with pytest.raises(DataError, match="categories with the same name: red"):
        read_annotations(root, "train")


def test_broken_images_and_their_annotations_are_left_out(root: Path, tmp_path: Path) -> None:
    file = read_annotations(root, "train")
    copy = json.loads(
        checked_file(file, file.image_paths[:1], tmp_path / "copy.json").path.read_text()
    )
    assert [image["id"] for image in copy["images"]] == [1]
    assert {box["image_id"] for box in copy["annotations"]} == {1}


def test_annotation_id_0_is_replaced(root: Path, tmp_path: Path) -> None:
    file = read_annotations(root, "train")
    assert checked_file(file, [], tmp_path / "unused.json").path == file.path
    boxes = [{**box, "id": number} for number, box in enumerate(file.document["annotations"])]
    _edit(root, "train", annotations=boxes)
    copy = checked_file(read_annotations(root, "train"), [], tmp_path / "copy.json").path
    assert [box["id"] for box in json.loads(copy.read_text())["annotations"]] == [4, 1, 2, 3]


def test_results_do_not_depend_on_loading_or_saving(root: Path) -> None:
    key = _params(root).in_key()
    assert key == _params(root, loader_workers=7, val_every=3, checkpoint_every=5).in_key()
    assert key != _params(root, batch_size=8).in_key()
    published = {"method": "mask_rcnn", "fc_channels": 1024, "num_rois": 512, "anchor_scale": 8.0}
    assert _params(root, **published).in_key() == _params(root, method="mask_rcnn").in_key()
    assert (
        _params(root, **{**published, "num_rois": 64}).in_key()
        != _params(root, method="mask_rcnn").in_key()
    )


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"schedule": "cosine", "min_lr": 1.0}, r"min_lr\s+must be below lr"),
        ({"milestones": [5, 3]}, r"milestones\s+must increase"),
        ({"epochs": 0}, "greater than or equal to 1"),
        ({"method": "yolo"}, "mask_rcnn"),
    ],
)
def test_params_out_of_range_are_refused(root: Path, fields: dict[str, Any], fault: str) -> None:
    content = {"method": "mask_rcnn", "backbone": "p.checkpoint", "data": str(root), **fields}
    with pytest.raises(ValidationError, match=fault):
        DetectionParams.model_validate_json(json.dumps(content))


@pytest.mark.parametrize(
    "name", ["train2017/000.png", "annotations/instances_val2017.json", "annotations/other.json"]
)
def test_dangling_link_is_named_in_the_error(root: Path, name: str) -> None:
    (root / name).unlink(missing_ok=True)
    (root / name).symlink_to("gone")
    text = (
        f"{re.escape(str(root / name))}: .*cannot be read: a symbolic link to gone, which does not "
        "exist"
    )
    with pytest.raises(DataError, match=text):
        fingerprint(_params(root))


def test_file_instead_of_a_folder_is_named_in_the_error(root: Path) -> None:
    shutil.rmtree(root / "val2017")
    (root / "val2017").write_text("")
    with pytest.raises(DataError, match=f"{root}/val2017: the data folder is a file"):
        fingerprint(_params(root))


def test_image_names_that_are_not_utf8_are_reported(root: Path) -> None:
    (root / os.fsdecode(b"train2017/caf\xe9.png")).write_bytes(b"")
    with pytest.raises(
        DataError,
        match=r"train2017: file names that are not UTF-8: train2017/caf\\xe9\.png; ren",
    ):
        fingerprint(_params(root))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_mmdet_reads_a_copy_without_the_byte_order_mark(
    root: Path, tmp_path: Path, encoding: str
) -> None:
    path = root / "annotations" / "instances_train2017.json"
    before = read_annotations(root, "train")
    path.write_bytes(path.read_text().encode(encoding))
    assert len(fingerprint(_params(root))) == 64
    marked = read_annotations(root, "train")
    assert marked.document == before.document
    copy = checked_file(marked, (), tmp_path / "copy.json")
    assert json.loads(copy.path.read_text()) == before.document


def test_plan_reports_annotations_that_are_not_utf8(root: Path) -> None:
    path = root / "annotations" / "instances_train2017.json"
    path.write_bytes(path.read_bytes().replace(b'"red"', b'"ros\xe9"'))
    with pytest.raises(
        DataError,
        match=r"instances_train2017\.json:1: not UTF-8 text: .* 0xe9; save the file as UTF-8",
    ):
        fingerprint(_params(root))


def test_annotation_file_is_hashed_again_only_after_a_change(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def counted(path: Path) -> str:
        read.append(path.name)
        return digest_of_file(path)

    monkeypatch.setattr("pipelines.data.digests.digest_of_file", counted)
    monkeypatch.setattr("pipelines.data.digests.CONTENT_LIMIT_BYTES", 0)
    monkeypatch.setattr("pipelines.data.remembered.SETTLED_S", -3600)
    before = fingerprint(_params(root))
    assert fingerprint(_params(root)) == before
    assert read == ["instances_train2017.json", "instances_val2017.json"]
    _edit(root, "val", info={"version": 2})
    assert fingerprint(_params(root)) != before
    assert read[2:] == ["instances_val2017.json"]
