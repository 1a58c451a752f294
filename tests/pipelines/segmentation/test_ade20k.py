"""Faults of a data set in ADE20K's layout are found before training, and the digest changes with
the bytes."""

from __future__ import annotations

import json
import os
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from orchestrator.errors import DataError
from pipelines.segmentation.ade20k import (
    has_labels,
    label_fault,
    read_classes,
    read_pairs,
    write_split,
)
from pipelines.segmentation.kind import KIND
from pipelines.segmentation.label_maps import read_label_map
from pipelines.segmentation.loading import LoadLabelMap
from pipelines.segmentation.painting import paint
from pipelines.segmentation.params import SegmentationParams
from pipelines.segmentation.train import check_pairs
from tests.pipelines.openmmlab.harness import PX, Recorder, make_context, write_ade20k


def _params(root: Path, **fields: Any) -> SegmentationParams:
    return SegmentationParams(
        method="semantic_fpn", backbone="p.checkpoint", data=str(root), **fields
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_ade20k(tmp_path / "ade20k", num_train=2, num_val=2)


def test_fingerprint_depends_only_on_images_and_classes(root: Path, tmp_path: Path) -> None:
    before = KIND.fingerprint(_params(root))
    copy = Path(shutil.copytree(root, tmp_path / "copy"))
    assert KIND.fingerprint(_params(copy)) == before
    (copy / "classes.json").write_text('["red", "blue", "rest"]')
    assert KIND.fingerprint(_params(copy)) != before


@pytest.mark.parametrize("gone", ["images/training", "images/validation", "annotations/training"])
def test_missing_folder_is_named_in_the_error(root: Path, gone: str) -> None:
    shutil.rmtree(root / gone)
    with pytest.raises(DataError, match=f"{root}/{gone}: the data folder is missing"):
        KIND.fingerprint(_params(root))


def test_folder_that_vanished_after_the_plan_is_named(root: Path) -> None:
    shutil.rmtree(root / "images" / "validation")
    with pytest.raises(DataError, match=rf"^{root}/images/validation: the data folder is missing$"):
        read_pairs(root, "validation")


def test_num_classes_must_agree_with_the_names(root: Path) -> None:
    KIND.fingerprint(_params(root, num_classes=3))
    with pytest.raises(DataError, match=r"classes\.json: has 3 classes, but num_classes is 150"):
        KIND.fingerprint(_params(root, num_classes=150))


@pytest.mark.parametrize(
    ("classes", "fault"),
    [
        (
            ("red", "green", "background"),
            r"lacks the classes green; correct `classes`, or leave it out",
        ),
        (("red", "blue"), "also has the classes background; correct `classes`"),
        (("blue", "red", "background"), "has its classes in another order: red comes before blue"),
    ],
)
def test_classes_of_the_job_must_match_the_data(
    root: Path, classes: tuple[str, ...], fault: str
) -> None:
    KIND.fingerprint(_params(root, classes=("red", "blue", "background")))
    with pytest.raises(DataError, match=rf"classes\.json: {fault}"):
        KIND.fingerprint(_params(root, classes=classes))


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
def test_class_names_come_from_lines_or_the_published_table(
    root: Path, name: str, text: str
) -> None:
    (root / "classes.json").unlink()
    (root / name).write_text(text)
    assert read_classes(root, None) == ("wall", "flower pot")


@pytest.mark.parametrize(
    ("text", "fault"), [("{", "cannot be read"), ('{"a": 1}', "JSON list"), ("[]", "0 class")]
)
def test_class_file_must_be_a_list_of_names(root: Path, text: str, fault: str) -> None:
    (root / "classes.json").write_text(text)
    with pytest.raises(DataError, match=rf"classes\.json: .*{fault}"):
        read_classes(root, None)


def test_error_for_missing_class_names_lists_files_to_add(root: Path) -> None:
    (root / "classes.json").unlink()
    with pytest.raises(
        DataError, match=r"no class names; add classes\.json or classes\.txt or objectInfo150\.txt"
    ):
        KIND.fingerprint(_params(root))


def test_images_with_different_suffixes_are_refused(root: Path) -> None:
    (root / "images" / "training" / "odd.jpg").touch()
    with pytest.raises(DataError, match=r"must have the same suffix, .*found \.jpg, \.png"):
        read_pairs(root, "training")


@pytest.mark.parametrize("name", [" 000", "000 ", "0\n00", "0\r00"])
def test_name_that_mmseg_would_misread_is_refused(root: Path, name: str) -> None:
    folder = root / "images" / "training"
    (folder / "000.png").rename(folder / f"{name}.png")
    with pytest.raises(
        DataError,
        match=r"begin or end with white space or contain a line break; rename '.*\.png' and",
    ):
        read_pairs(root, "training")


def test_label_maps_are_checked_for_size_channels_and_classes(root: Path, tmp_path: Path) -> None:
    image, label = root / "images" / "training" / "000.png", tmp_path / "label.png"
    cases = {
        "is 8x64 pixels, but its image is 64x64": np.zeros((PX, 8), np.uint8),
        "has 3 channels": np.zeros((PX, PX, 3), np.uint8),
        r"holds the values [4], but there are 3 classes": np.full((PX, PX), 4, np.uint8),
    }
    for fault, labels in cases.items():
        Image.fromarray(labels).save(label)
        assert (label_fault(label, image, num_classes=3) or "").startswith(fault)
    Image.fromarray(
        np.array([0, 1, 2, 3, 255] * PX, np.uint8).repeat(13)[: PX * PX].reshape(PX, PX)
    ).save(label)
    assert label_fault(label, image, num_classes=3) is None


def test_palette_label_map_has_its_indexes_as_classes(root: Path, tmp_path: Path) -> None:
    image, label = root / "images" / "training" / "000.png", tmp_path / "label.png"
    palette = Image.fromarray(np.full((PX, PX), 3, np.uint8)).convert("P")
    palette.putpalette([200, 0, 0] * 256)
    palette.save(label)
    with Image.open(label) as saved:
        assert saved.mode == "P"
    assert label_fault(label, image, num_classes=3) is None
    assert has_labels(label)
    assert (label_fault(label, image, num_classes=2) or "").startswith("holds the values [3]")


def _png(depth: int, rows: list[bytes], width: int) -> bytes:
    """A grey PNG with `depth` bits per pixel, which Pillow cannot write."""
    header = struct.pack(">IIBBBBB", width, len(rows), depth, 0, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\x00" + row for row in rows))
    chunks = {b"IHDR": header, b"IDAT": pixels, b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks.items()
    )


@pytest.mark.parametrize(
    ("depth", "row", "values"),
    [
        (1, b"\xa0", [1, 0, 1, 0]),
        (2, b"\xc6", [3, 0, 1, 2]),
        (4, b"\x30\x12", [3, 0, 1, 2]),
        (8, b"\x03\x00\xff\x02", [3, 0, 255, 2]),
        (16, b"\x00\x03\x00\x00\x00\xff\x00\x02", [3, 0, 255, 2]),
    ],
)
def test_label_maps_of_any_bit_depth_keep_their_values(
    depth: int, row: bytes, values: list[int], tmp_path: Path
) -> None:
    """Pillow scales 2-bit and 4-bit grey to 0 to 255."""
    image, label = tmp_path / "image.png", tmp_path / "label.png"
    label.write_bytes(_png(depth, [row] * 3, 4))
    Image.new("RGB", (4, 3)).save(image)
    assert read_label_map(label).tolist() == [values] * 3
    assert label_fault(label, image, num_classes=3) is None
    assert has_labels(label)
    loaded = LoadLabelMap()({"seg_map_path": str(label), "seg_fields": []})
    assert loaded["gt_seg_map"].dtype == np.uint8
    assert (
        loaded["gt_seg_map"].tolist()
        == [[255 if value in (0, 255) else value - 1 for value in values]] * 3
    )
    paint(image, label, label, ("red", "blue", "background"), tmp_path / "painted.jpg")


@pytest.mark.parametrize(
    ("mode", "file_format", "fault"),
    [
        ("L", "JPEG", "is a JPEG; a label map must be a PNG"),
        ("RGB", "PNG", "has 3 channels; a label map must have one"),
        ("RGBA", "PNG", "has 4 channels; a label map must have one"),
        ("LA", "PNG", "has 2 channels; a label map must have one"),
    ],
)
def test_invalid_label_map_is_refused_with_a_reason(
    mode: str, file_format: str, fault: str, tmp_path: Path
) -> None:
    image, label = tmp_path / "image.png", tmp_path / "label.png"
    Image.new("RGB", (4, 3)).save(image)
    Image.new(mode, (4, 3)).save(label, format=file_format)
    assert label_fault(label, image, num_classes=3) == fault


def test_16_bit_label_is_refused_instead_of_wrapped(tmp_path: Path) -> None:
    image, label = tmp_path / "image.png", tmp_path / "label.png"
    Image.new("RGB", (4, 3)).save(image)
    Image.fromarray(np.full((3, 4), 257, np.uint16)).save(label)
    assert (
        label_fault(label, image, num_classes=3)
        == "holds the values [257], but there are 3 classes"
    )


def test_label_map_must_fit_the_exif_rotated_image(tmp_path: Path) -> None:
    image, label = tmp_path / "image.jpg", tmp_path / "label.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    Image.new("RGB", (64, 48)).save(image, exif=exif)
    Image.fromarray(np.ones((64, 48), np.uint8)).save(label)
    assert label_fault(label, image, num_classes=3) is None


def test_a_split_without_a_labeled_pixel_is_refused(root: Path, tmp_path: Path) -> None:
    for path in (root / "annotations/training").glob("*.png"):
        Image.new("L", (PX, PX), 255).save(path)
    context = make_context(Recorder(tmp_path), _params(root), root)
    assert (
        check_pairs([read_pairs(root, "validation")], num_classes=3, context=context) == frozenset()
    )
    with pytest.raises(DataError, match="annotations/training: no label map has a labeled pixel"):
        check_pairs([read_pairs(root, "training")], num_classes=3, context=context)


def test_all_wrong_label_maps_are_reported_together(root: Path, tmp_path: Path) -> None:
    write_ade20k(tmp_path / "many", num_train=12, num_val=1)
    for path in (tmp_path / "many/annotations/training").glob("*.png"):
        Image.new("L", (PX, PX), 4).save(path)
    context = make_context(Recorder(tmp_path), _params(root), root)
    with pytest.raises(
        DataError,
        match=r"12 of 12 label maps are wrong: .*000\.png \(holds .*009\.png.* and 2 more",
    ):
        check_pairs([read_pairs(tmp_path / "many", "training")], num_classes=3, context=context)


def test_split_file_lacks_the_broken_images(root: Path, tmp_path: Path) -> None:
    pairs = read_pairs(root, "training")
    written = write_split(pairs, pairs.image_paths[:1], tmp_path / "training.txt")
    assert written.read_text() == "001\n"


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"max_iters": 100}, r"max_iters\s+warmup_iters \(1500\) must be below max_iters \(100\)"),
        ({"min_lr": 1.0}, r"min_lr\s+must be below lr"),
        ({"classes": ["red", "red"]}, r"classes\s+lists red more than once"),
        (
            {"classes": ["red"], "num_classes": 2},
            r"num_classes\s+is 2, but `classes` has 1; leave one out",
        ),
        ({"ratio_range": [2.0, 0.5]}, r"ratio_range\s+must be \[low, high\]"),
        (
            {"method": None, "config": "own.py", "head_channels": 8},
            r"head_channels\s+the model of `config` has its own; leave it out",
        ),
    ],
)
def test_params_out_of_range_are_refused(root: Path, fields: dict[str, Any], fault: str) -> None:
    content = {"method": "semantic_fpn", "backbone": "p.checkpoint", "data": str(root), **fields}
    with pytest.raises(ValidationError, match=fault):
        SegmentationParams.model_validate_json(json.dumps(content))


@pytest.mark.parametrize(
    "name", ["images/training/000.png", "annotations/validation/x.png", "images/training/notes"]
)
def test_dangling_link_is_named_in_the_error(root: Path, name: str) -> None:
    (root / name).unlink(missing_ok=True)
    (root / name).symlink_to("gone")
    with pytest.raises(
        DataError,
        match=f"{root}/{name}: cannot be read: a symbolic link to gone, which does not exist",
    ):
        KIND.fingerprint(_params(root))


@pytest.mark.parametrize(
    "name", [b"images/training/caf\xe9.png", b"annotations/training/caf\xe9.png"]
)
def test_names_that_are_not_utf8_are_reported(root: Path, name: bytes) -> None:
    (root / os.fsdecode(name)).write_bytes(b"")
    with pytest.raises(
        DataError, match=r"/training: file names that are not UTF-8: .*/caf\\xe9\.png; rename"
    ):
        KIND.fingerprint(_params(root))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.json", '["wand", "tür"]'),
        ("classes.txt", "wand\ntür\n"),
        ("objectInfo150.txt", "x\n1\twand\n2\ttür\n"),
    ],
)
def test_class_names_may_have_a_byte_order_mark(
    root: Path, name: str, text: str, encoding: str
) -> None:
    (root / "classes.json").unlink()
    (root / name).write_bytes(text.encode(encoding))
    assert read_classes(root, None) == ("wand", "tür")


def test_class_names_that_are_not_utf8_name_their_line(root: Path) -> None:
    (root / "classes.json").unlink()
    (root / "classes.txt").write_bytes(b"wand\nt\xfcr\n")
    with pytest.raises(
        DataError, match=r"classes\.txt:2: not UTF-8 text: .* 0xfc; save the file as UTF-8"
    ):
        KIND.fingerprint(_params(root))
