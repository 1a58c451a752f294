"""Broken and missing images are found, counted and named before training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator.errors import DataError
from pipelines.detection.annotations.coco import read_annotations
from pipelines.detection.images import check_images
from pipelines.detection.params import DetectionParams
from pipelines.openmmlab.images import broken_images
from tests.pipelines.openmmlab.harness import PX, Recorder, make_context, write_coco

PARAMS = DetectionParams(method="mask_rcnn", backbone="p.checkpoint", data="d")


def _images(folder: Path, *, num: int, num_truncated: int) -> list[Path]:
    paths = []
    for number in range(num):
        path = folder / f"{number}.jpg"
        Image.fromarray(
            np.random.default_rng(number).integers(0, 255, (40, 40, 3)).astype(np.uint8)
        ).save(path)
        if number < num_truncated:
            path.write_bytes(path.read_bytes()[:-200])
        paths.append(path)
    return paths


def _find(paths: list[Path], root: Path, *, limit: int) -> frozenset[Path]:
    context = make_context(Recorder(root), PARAMS, root)
    return broken_images(paths, max_broken_images=limit, num_threads=2, context=context)


def test_truncated_images_up_to_the_limit_are_left_out(tmp_path: Path) -> None:
    paths = _images(tmp_path, num=6, num_truncated=2)
    assert _find(paths, tmp_path, limit=2) == frozenset(paths[:2])


def test_truncated_images_beyond_the_limit_are_named(tmp_path: Path) -> None:
    paths = _images(tmp_path, num=14, num_truncated=12)
    with pytest.raises(
        DataError, match=r"12 of 14 images cannot be decoded, but .* is 11: .*0\.jpg .*2 more"
    ):
        _find(paths, tmp_path, limit=11)


def test_missing_image_is_an_error_for_any_limit(tmp_path: Path) -> None:
    paths = [*_images(tmp_path, num=2, num_truncated=0), tmp_path / "gone.jpg"]
    with pytest.raises(
        DataError, match=r"1 of 3 files are missing: .*gone\.jpg; complete the data set"
    ):
        _find(paths, tmp_path, limit=100)


def test_image_with_another_size_than_annotated_is_refused(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "coco", num_train=2, num_val=1)
    Image.new("RGB", (PX, 2 * PX)).save(root / "train2017/001.png")
    files = [read_annotations(root, "train"), read_annotations(root, "val")]
    context = make_context(Recorder(tmp_path), PARAMS, root)
    with pytest.raises(
        DataError, match=r"1 of 3 images have .*001\.png \(64x128 pixels instead of 64x64\)"
    ):
        check_images(files, context)
    assert check_images(files[1:], context) == frozenset()


def _link_to_nothing(path: Path) -> None:
    path.symlink_to("elsewhere.jpg")


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (_link_to_nothing, "a symbolic link to elsewhere.jpg, which does not exist"),
        (_loop, "Too many levels of symbolic links"),
        (Path.mkdir, "not a file"),
    ],
)
def test_file_that_cannot_be_opened_is_named_with_the_reason(
    tmp_path: Path, make: Callable[[Path], None], why: str
) -> None:
    make(tmp_path / "gone.jpg")
    paths = [*_images(tmp_path, num=2, num_truncated=0), tmp_path / "gone.jpg"]
    with pytest.raises(
        DataError, match=rf"1 of 3 files are missing: .*gone\.jpg \({why}\); complete the data set"
    ):
        _find(paths, tmp_path, limit=100)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b.jpg", "\ud800.jpg"])
def test_invalid_file_name_is_reported(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        DataError,
        match=r"1 of 1 files are missing: .* \((File name too long|not a valid file name)\)",
    ):
        _find([tmp_path / name], tmp_path, limit=100)
