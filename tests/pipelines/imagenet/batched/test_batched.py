"""Batched operations, and shifts of rows, compared with timm's functions on real photographs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data import auto_augment as timm_ops
from torch import Tensor

from pipelines.imagenet.batched.apply import apply_ops
from pipelines.imagenet.batched.ops import FILTERS, POINT_TABLES, op_of
from pipelines.imagenet.drawn import Drawn, Op, collate_draws
from pipelines.imagenet.rows import replaced
from tests.pipelines.imagenet.photographs import small

FILL = (124, 116, 104)
RESAMPLE = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
}
EXACT: list[tuple[str, tuple[float, ...]]] = [
    ("auto_contrast", ()),
    ("equalize", ()),
    ("invert", ()),
    *(("posterize", (bits,)) for bits in (1, 2, 4)),
    *(("solarize", (threshold,)) for threshold in (0, 26, 200, 256)),
    *(("solarize_add", (addition,)) for addition in (0, 99, 110)),
    *(
        (name, (factor,))
        for name in ("brightness", "color", "contrast", "sharpness")
        for factor in (0.1, 0.9, 1.9)
    ),
    ("desaturate", (0.7,)),
]
SHIFTS = [
    *((name, (factor,)) for name in ("shear_x", "shear_y") for factor in (0.27, -0.3, 0.0)),
    *(
        (name, (share,))
        for name in ("translate_x_rel", "translate_y_rel")
        for share in (0.41, -0.2, 1.5)
    ),
]
TURNS = [("rotate", (degrees,)) for degrees in (27.0, -11.3, 0.0, 90.0)]


def timm_result(
    name: str, args: tuple[float, ...], image: Image.Image, interpolation: str
) -> NDArray[np.int64]:
    done = getattr(timm_ops, name)(image, *args, fillcolor=FILL, resample=RESAMPLE[interpolation])
    return np.asarray(done).astype(int)


def as_batch(*images: Image.Image) -> Tensor:
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images])


def batched_result(
    ops: Sequence[tuple[Op, ...]], images: Tensor, interpolation: str = "bicubic"
) -> NDArray[np.int64]:
    draws = collate_draws([Drawn(one, ()) for one in ops])
    done_BCHW = apply_ops(images, draws, fill=FILL, interpolation=interpolation)  # noqa: N806
    return done_BCHW.permute(0, 2, 3, 1).numpy().astype(int)


def op_for(name: str, args: tuple[float, ...]) -> Op:
    op = op_of(name, args, size=(96, 96))
    assert op is not None
    return op


def degenerate() -> list[Image.Image]:
    """Images with extreme histograms and ranges."""
    two = np.zeros((96, 96, 3), np.uint8)
    two[:40] = 255
    one_pixel = np.full((96, 96, 3), 7, np.uint8)
    one_pixel[3, 5] = (0, 255, 8)
    return [
        Image.new("RGB", (96, 96), (9, 0, 255)),
        Image.fromarray(two),
        Image.fromarray(one_pixel),
    ]


@pytest.mark.parametrize(("name", "args"), EXACT)
def test_ops_without_sampling_equal_timms_bit_for_bit(name: str, args: tuple[float, ...]) -> None:
    images = [*small(), *degenerate()]
    results = batched_result([(op_for(name, args),)] * len(images), as_batch(*images))
    for image, result in zip(images, results, strict=True):
        assert np.array_equal(result, timm_result(name, args, image, "bicubic"))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("name", "args"), [*SHIFTS, *TURNS])
def test_affine_maps_match_timm_within_a_grey_level(
    name: str, args: tuple[float, ...], interpolation: str
) -> None:
    images = [*small(), *degenerate()]
    results = batched_result(
        [(op_for(name, args),)] * len(images), as_batch(*images), interpolation
    )
    for image, result in zip(images, results, strict=True):
        error = np.abs(result - timm_result(name, args, image, interpolation))
        assert error.max() <= 1
        assert (error > 0).mean() < 0.1


@pytest.mark.parametrize(("name", "args"), [*SHIFTS, *TURNS])
def test_nearest_neighbours_match_timm_except_ties(name: str, args: tuple[float, ...]) -> None:
    """Pillow computes positions in 65536ths of a pixel there."""
    result = batched_result([(op_for(name, args),)], as_batch(small()[0]), "nearest")[0]
    assert (result != timm_result(name, args, small()[0], "nearest")).mean() < 0.005


@pytest.mark.parametrize("interpolation", RESAMPLE)
@pytest.mark.parametrize(("name", "args"), SHIFTS)
def test_shifted_rows_match_timm_within_a_grey_level(
    name: str, args: tuple[float, ...], interpolation: str
) -> None:
    function: Any = getattr(timm_ops, name)
    assert replaced(function) is not function
    for image in [*small(), small()[0].crop((0, 0, 96, 50)), *degenerate()]:
        result = np.asarray(
            replaced(function)(image, *args, fillcolor=FILL, resample=RESAMPLE[interpolation])
        )
        error = np.abs(result.astype(int) - timm_result(name, args, image, interpolation))
        assert error.max() <= 1
        assert (error > 0).mean() < 0.1


def test_flat_regions_stay_flat_under_every_map() -> None:
    """Truncation to whole numbers would turn 99.9999 into 99."""
    for level in range(0, 256, 5):
        image = Image.new("RGB", (96, 96), (level, level, level))
        result = batched_result([(op_for("shear_x", (0.123,)),)], as_batch(image))[0]
        assert set(np.unique(result)) <= {level, *FILL}


@pytest.mark.parametrize("radius", [0.1, 0.6, 1.3, 2.0])
def test_blur_matches_timm_within_a_grey_level(radius: float) -> None:
    for image in small():
        result = batched_result([(op_for("gaussian_blur", (radius,)),)], as_batch(image))[0]
        assert np.abs(result - timm_result("gaussian_blur", (radius,), image, "bicubic")).max() <= 1


def test_posterize_to_0_bits_is_black_and_8_bits_no_op() -> None:
    assert not batched_result([(op_for("posterize", (0,)),)], as_batch(small()[0])).any()
    assert op_of("posterize", (8,), size=(96, 96)) is None


def test_each_image_gets_its_own_operations_in_its_own_order() -> None:
    solarize, invert, color, rotate = (
        op_for(name, args)
        for name, args in [
            ("solarize", (90,)),
            ("invert", ()),
            ("color", (0.2,)),
            ("rotate", (20,)),
        ]
    )
    ops = [(solarize, color), (), (color, solarize), (rotate,), (invert, rotate, color)]
    images = as_batch(*(small()[i % 2] for i in range(len(ops))))
    together = batched_result(ops, images)
    for place, one in enumerate(ops):
        assert np.array_equal(together[place], batched_result([one], images[place : place + 1])[0])


def test_input_batch_is_not_modified() -> None:
    images = as_batch(small()[0])
    before = images.clone()
    batched_result([(op_for("invert", ()),)], images)
    assert torch.equal(images, before)


def test_every_function_of_timms_policies_has_a_batched_form() -> None:
    names = {function.__name__ for function in timm_ops.NAME_TO_OP.values()} - {
        "gaussian_blur_rand"
    }
    absolute = {"translate_x_abs", "translate_y_abs"}  # in no policy that a job can name
    assert all(op_of(name, (0.5,), size=(8, 8)) for name in names - absolute)
    with pytest.raises(KeyError, match="augmentation: fast"):
        op_of("translate_x_abs", (0.5,), size=(8, 8))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", [*POINT_TABLES, *FILTERS, "rotate", "shear_x", "translate_y_rel"])
def test_gpu_matches_the_cpu_within_a_grey_level(name: str) -> None:
    ops = [(op_for(name, (2.0 if name == "posterize" else 0.3,)),)] * 2
    draws = collate_draws([Drawn(one, ()) for one in ops])
    on_gpu = apply_ops(
        as_batch(*small()).cuda(),
        draws.to(torch.device("cuda")),
        fill=FILL,
        interpolation="bicubic",
    )
    error = np.abs(
        on_gpu.permute(0, 2, 3, 1).cpu().numpy().astype(int)
        - batched_result(ops, as_batch(*small()))
    )
    assert error.max() <= 1
