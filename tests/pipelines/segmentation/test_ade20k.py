"""Faults of a data set in ADE20K's layout are found before training, and the digest follows the bytes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from orchestrator.errors import DataError
from pipelines.segmentation.ade20k import has_labels, label_fault, read_classes, read_pairs, write_split
from pipelines.segmentation.kind import KIND
from pipelines.segmentation.params import SegmentationParams
from pipelines.segmentation.train import check_pairs
from tests.pipelines.openmmlab.harness import PX, Recorder, make_context, write_ade20k


def _params(root: Path, **fields: Any) -> SegmentationParams:
    return SegmentationParams(method="semantic_fpn", backbone="p.checkpoint", data=str(root), **fields)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_ade20k(tmp_path / "ade20k", num_train=2, num_val=2)


def test_fingerprint_is_the_same_elsewhere_and_differs_with_the_classes(root: Path, tmp_path: Path) -> None:
    before = KIND.fingerprint(_params(root))
    copy = Path(shutil.copytree(root, tmp_path / "copy"))
    assert KIND.fingerprint(_params(copy)) == before
    (copy / "classes.json").write_text('["red", "blue", "rest"]')
    assert KIND.fingerprint(_params(copy)) != before


@pytest.mark.parametrize("gone", ["images/training", "images/validation", "annotations/training"])
def test_missing_folder_is_named(root: Path, gone: str) -> None:
    shutil.rmtree(root / gone)
    with pytest.raises(DataError, match=f"{root}/{gone}: the data folder is missing"):
        KIND.fingerprint(_params(root))


def test_num_classes_must_agree_with_the_names(root: Path) -> None:
    KIND.fingerprint(_params(root, num_classes=3))
    with pytest.raises(DataError, match=r"classes\.json: names 3 classes, but num_classes is 150"):
        KIND.fingerprint(_params(root, num_classes=150))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.txt", "wall\nflower pot\n"),
        (
            "objectInfo150.txt",
            "Idx\tRatio\tStuff\tName\n1\t0.1\t1\twall\n2\t0.1\t1\tflower pot\n",
        ),
    ],
)
def test_class_names_come_from_lines_and_from_the_published_table(root: Path, name: str, text: str) -> None:
    (root / "classes.json").unlink()
    (root / name).write_text(text)
    assert read_classes(root, None) == ("wall", "flower pot")


@pytest.mark.parametrize(("text", "fault"), [("{", "cannot be read"), ('{"a": 1}', "JSON list"), ("[]", "0 class")])
def test_class_file_that_is_no_list_of_names_is_refused(root: Path, text: str, fault: str) -> None:
    (root / "classes.json").write_text(text)
    with pytest.raises(DataError, match=rf"classes\.json: .*{fault}"):
        read_classes(root, None)


def test_data_without_class_names_says_which_file_to_add(root: Path) -> None:
    (root / "classes.json").unlink()
    with pytest.raises(DataError, match=r"no class names; add classes\.json or classes\.txt or objectInfo150\.txt"):
        KIND.fingerprint(_params(root))


def test_images_of_several_suffixes_are_refused(root: Path) -> None:
    (root / "images" / "training" / "odd.jpg").touch()
    with pytest.raises(DataError, match=r"must all have one suffix .*found \.jpg, \.png"):
        read_pairs(root, "training")


def test_label_maps_are_checked_for_size_channels_and_classes(root: Path, tmp_path: Path) -> None:
    image, label = root / "images" / "training" / "000.png", tmp_path / "label.png"
    cases = {
        "is 8x64 pixels, its image 64x64": np.zeros((PX, 8), np.uint8),
        "has 3 channels": np.zeros((PX, PX, 3), np.uint8),
        r"holds the values [4]; there are 3 classes": np.full((PX, PX), 4, np.uint8),
    }
    for fault, labels in cases.items():
        Image.fromarray(labels).save(label)
        assert (label_fault(label, image, num_classes=3) or "").startswith(fault)
    Image.fromarray(np.array([0, 1, 2, 3, 255] * PX, np.uint8).repeat(13)[: PX * PX].reshape(PX, PX)).save(label)
    assert label_fault(label, image, num_classes=3) is None


def test_a_label_map_may_have_a_palette_and_its_values_are_the_classes(root: Path, tmp_path: Path) -> None:
    image, label = root / "images" / "training" / "000.png", tmp_path / "label.png"
    palette = Image.fromarray(np.full((PX, PX), 3, np.uint8)).convert("P")
    palette.putpalette([200, 0, 0] * 256)
    palette.save(label)
    with Image.open(label) as saved:
        assert saved.mode == "P"
    assert label_fault(label, image, num_classes=3) is None
    assert has_labels(label)
    assert (label_fault(label, image, num_classes=2) or "").startswith("holds the values [3]")


def test_a_label_map_fits_the_image_as_its_exif_turns_it(tmp_path: Path) -> None:
    image, label = tmp_path / "image.jpg", tmp_path / "label.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.new("RGB", (64, 48)).save(image, exif=exif)
    Image.fromarray(np.ones((64, 48), np.uint8)).save(label)
    assert label_fault(label, image, num_classes=3) is None


def test_a_split_without_a_labeled_pixel_is_refused(root: Path, tmp_path: Path) -> None:
    for path in (root / "annotations/training").glob("*.png"):
        Image.new("L", (PX, PX), 255).save(path)
    context = make_context(Recorder(tmp_path), _params(root), root)
    assert check_pairs([read_pairs(root, "validation")], num_classes=3, context=context) == frozenset()
    with pytest.raises(DataError, match="annotations/training: no label map has a labeled pixel"):
        check_pairs([read_pairs(root, "training")], num_classes=3, context=context)


def test_wrong_label_maps_are_told_together_and_the_first_ten_named(root: Path, tmp_path: Path) -> None:
    write_ade20k(tmp_path / "many", num_train=12, num_val=1)
    for path in (tmp_path / "many/annotations/training").glob("*.png"):
        Image.new("L", (PX, PX), 4).save(path)
    context = make_context(Recorder(tmp_path), _params(root), root)
    with pytest.raises(DataError, match=r"12 of 12 label maps are wrong: .*000\.png \(holds .*009\.png.* and 2 more"):
        check_pairs([read_pairs(tmp_path / "many", "training")], num_classes=3, context=context)


def test_split_file_lacks_the_broken_images(root: Path, tmp_path: Path) -> None:
    pairs = read_pairs(root, "training")
    written = write_split(pairs, pairs.image_paths[:1], tmp_path / "training.txt")
    assert written.read_text() == "001\n"


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"max_iters": 100}, r"warmup_iters: must be below max_iters \(100\), not 1500"),
        ({"min_lr": 1.0}, "min_lr: must be below lr"),
        ({"ratio_range": [2.0, 0.5]}, r"ratio_range: must be \[low, high\]"),
    ],
)
def test_params_out_of_range_are_refused(root: Path, fields: dict[str, Any], fault: str) -> None:
    content = {"method": "semantic_fpn", "backbone": "p.checkpoint", "data": str(root), **fields}
    with pytest.raises(ValidationError, match=fault):
        SegmentationParams.model_validate_json(json.dumps(content))
