"""Image files of every mode and depth give the same image, or the same error, in the readers of all
tasks."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from orchestrator.contract import StageContext
from orchestrator.errors import DataError
from pipelines.data.image_files import (
    BrokenImageError,
    decode_rgb,
    image_fault,
    load_upright,
    upright_size,
)
from pipelines.detection.annotations.coco import CheckedFile
from pipelines.detection.config import _train_dataset
from pipelines.detection.params import DetectionParams
from pipelines.imagenet.crops import decode_tensor
from pipelines.openmmlab.images import LoadUpright, broken_images
from pipelines.openmmlab.library import TRANSFORMS
from pipelines.segmentation.config import _train_pipeline, _val_pipeline
from pipelines.segmentation.loading import LoadLabelMap
from pipelines.segmentation.multi_scale_flip import multi_scale_flip_pipeline
from pipelines.segmentation.params import SegmentationParams
from tests.pipelines.openmmlab.harness import Recorder, make_context

RAMP = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1))
"""Grey from black to white, 64 x 48 pixels."""
ORIENTATION = 0x0112
PARAMS = DetectionParams(method="fcos", backbone="p.checkpoint", data="d")

Pixels = np.ndarray[Any, np.dtype[Any]]


def _grey(pixels: Pixels) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(pixels).save(path)


def _converted(mode: str) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(RAMP).convert("RGB").convert(mode).save(path)


def _hidden(mode: str) -> Callable[[Path], None]:
    """The image with an alpha channel that hides everything."""

    def write(path: Path) -> None:
        image = Image.fromarray(RAMP).convert(mode)
        image.putalpha(0)
        image.save(path)

    return write


def _palette(transparency: int | bytes | None) -> Callable[[Path], None]:
    options: dict[str, Any] = {} if transparency is None else {"transparency": transparency}
    return lambda path: Image.fromarray(RAMP).convert("RGB").quantize(64).save(path, **options)


def _big_endian(path: Path) -> None:
    deep = Image.frombytes("I;16B", (64, 48), (RAMP.astype(">u2") * 257).tobytes())
    deep.save(path)


def _white_is_zero(path: Path) -> None:
    """Pillow cannot write such a 16-bit file, so the tag that makes 0 black is overwritten."""
    Image.fromarray((255 - RAMP).astype(np.uint16) * 257).save(path)
    tag = struct.pack("<HHIH", 262, 3, 1, 1)
    assert path.read_bytes().count(tag) == 1
    path.write_bytes(path.read_bytes().replace(tag, tag[:-2] + b"\x00\x00"))


FILES: dict[str, Callable[[Path], None]] = {
    "grey.png": _grey(RAMP),
    "grey.jpg": _grey(RAMP),
    "rgb.png": _converted("RGB"),
    "cmyk.jpg": _converted("CMYK"),
    "ycbcr.tif": _converted("YCbCr"),
    "grey-alpha.png": _hidden("L"),
    "rgb-alpha.png": _hidden("RGB"),
    "palette.png": _palette(None),
    "palette-one-clear.png": _palette(3),
    "palette-alpha.png": _palette(bytes(range(0, 256, 4))),
    "16-bit.png": _grey(RAMP.astype(np.uint16) * 257),
    "16-bit.tif": _grey(RAMP.astype(np.uint16) * 257),
    "16-bit-big-endian.tif": _big_endian,
    "16-bit-white-is-0.tif": _white_is_zero,
    "32-bit.tif": _grey(RAMP.astype(np.int32) * 257),
    "float.tif": _grey(RAMP.astype(np.float32) / 255),
}
UNKNOWN_RANGE: dict[str, Callable[[Path], None]] = {
    "float-to-255.tif": _grey(RAMP.astype(np.float32)),
    "float-nan.tif": _grey(np.full((8, 8), np.nan, np.float32)),
    "beyond-16-bits.tif": _grey(RAMP.astype(np.int32) * 65536),
    "below-0.tif": _grey(RAMP.astype(np.int32) - 9),
}


@pytest.mark.parametrize("name", FILES)
def test_all_tasks_read_the_same_image_from_any_mode(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    FILES[name](path)
    stored = np.asarray(decode_rgb(path.read_bytes()))
    as_tensor = decode_tensor(path.read_bytes()).permute(1, 2, 0).numpy()
    upright, loaded = np.asarray(load_upright(path)), LoadUpright()({"img_path": str(path)})["img"]
    assert np.abs(stored.astype(int) - RAMP[:, :, None]).max() <= 8  # a palette has 64 colours
    assert all(np.array_equal(stored, one) for one in (as_tensor, upright, loaded[:, :, ::-1]))


def test_one_bit_images_are_black_and_white(tmp_path: Path) -> None:
    Image.fromarray(RAMP > 127).save(tmp_path / "1.png")
    assert np.array_equal(
        np.asarray(load_upright(tmp_path / "1.png"))[:, :, 1], np.where(RAMP > 127, 255, 0)
    )


@pytest.mark.parametrize("name", UNKNOWN_RANGE)
def test_grey_file_of_unknown_range_is_broken(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    UNKNOWN_RANGE[name](path)
    with pytest.raises(
        BrokenImageError,
        match=r"grey values from .* floats must be from 0 to 1, integers from 0 to",
    ):
        decode_rgb(path.read_bytes())
    assert "grey values from" in (image_fault(path) or "")


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 10))
def test_images_of_any_orientation_are_loaded_upright(
    orientation: int, suffix: str, tmp_path: Path
) -> None:
    upright, exif = Image.fromarray(RAMP), Image.Exif()
    exif[ORIENTATION] = orientation
    # A camera stores the picture turned the other way.
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}.get(orientation)
    stored = upright if back is None else upright.transpose(Image.Transpose(back))
    path = tmp_path / f"turned.{suffix}"
    stored.save(path, exif=exif)
    assert upright_size(path) == (64, 48)
    assert np.abs(np.asarray(load_upright(path)).astype(int) - RAMP[:, :, None]).max() <= 8
    if suffix != "tif":  # Pillow itself turns TIFFs
        assert decode_rgb(path.read_bytes()).size == stored.size


@pytest.mark.parametrize(
    "body", [b"neither\x00", b"II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x02\x00\x01\x00\x00\x00\x06"]
)
def test_exif_without_orientation_turns_nothing(body: bytes, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    Image.fromarray(RAMP).save(path)
    segment, content = b"Exif\x00\x00" + body.ljust(26, b"\x00"), path.read_bytes()
    path.write_bytes(
        content[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + content[2:]
    )
    assert upright_size(path) == load_upright(path).size == (64, 48)


def _damaged(folder: Path) -> dict[str, bytes]:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype(np.uint8)).save(
        folder / "whole.png"
    )
    Image.open(folder / "whole.png").save(folder / "whole.jpg")
    jpg, png = ((folder / f"whole.{suffix}").read_bytes() for suffix in ("jpg", "png"))
    return {
        "empty.jpg": b"",
        "text.jpg": b"<html>404</html>",
        "truncated.jpg": jpg[:-300],
        "truncated.png": png[:-300],
        "header.png": png[:20],
        "bomb.png": png[:16] + b"\x00\x01\x00\x00\x00\x01\x00\x00" + png[24:],
        "eps.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 q 9\n",
    }


def _context(root: Path) -> StageContext:
    return make_context(Recorder(root), PARAMS, root)


def test_any_fault_of_a_file_is_a_broken_image(tmp_path: Path) -> None:
    paths = []
    for name, content in _damaged(tmp_path).items():
        paths.append(tmp_path / name)
        paths[-1].write_bytes(content)
    found = broken_images(paths, max_broken_images=99, num_threads=2, context=_context(tmp_path))
    assert found == frozenset(paths)
    with pytest.raises(DataError, match=r"empty\.jpg \(not an image, or an unknown format\)"):
        broken_images(
            paths, max_broken_images=1, num_threads=2, context=_context(tmp_path / "again")
        )


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "bmp", "gif", "ppm"])
def test_damaged_bytes_raise_only_broken_image_errors(suffix: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    path, rng = tmp_path / f"image.{suffix}", np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (20, 20, 3)).astype(np.uint8))
    options: dict[str, Any] = {"exif": exif} if suffix in ("jpg", "png", "tif", "webp") else {}
    image.save(path, **options)
    whole = path.read_bytes()
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[rng.integers(0, min(len(whole), 90))] = rng.integers(0, 256)
        path.write_bytes(damaged[: rng.integers(1, len(whole) + 1)])
        assert image_fault(path) is None or image_fault(
            path
        )  # for any error that Pillow raises inside


def test_image_that_breaks_after_the_check_is_named(tmp_path: Path) -> None:
    (tmp_path / "late.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"late\.png: cannot be decoded: not an image"):
        LoadUpright()({"img_path": str(tmp_path / "late.png")})


def test_detection_and_segmentation_use_this_reader() -> None:
    segmentation = SegmentationParams(method="semantic_fpn", backbone="p.checkpoint", data="d")
    pipelines = [
        _train_dataset(PARAMS, CheckedFile(Path("unread.json"), 0), ["red"])["pipeline"],
        _train_pipeline(segmentation),
        _val_pipeline(segmentation),
        multi_scale_flip_pipeline(segmentation),
    ]
    assert all(isinstance(TRANSFORMS.build(pipeline[0]), LoadUpright) for pipeline in pipelines)
    for pipeline in (
        *pipelines[1:3],
        [step for view in pipelines[3][1]["transforms"] for step in view],
    ):
        assert sum(step["type"] == LoadLabelMap.__name__ for step in pipeline) == 1
        assert not any(step["type"] == "LoadAnnotations" for step in pipeline)
