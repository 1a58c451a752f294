"""Files of every mode through every loader, and the two decoders compared with each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pipelines.data.image_files import BrokenImageError, decode_rgb
from pipelines.imagenet.augmentation import Mode, make_train_augmentation
from pipelines.imagenet.crops import decode_tensor
from pipelines.imagenet.dataset import Sample, collate
from tests.pipelines.imagenet.photographs import PLAIN, encoded, photographs, seed_all

MODES: tuple[Mode, ...] = ("reference", "fast", "device")
RAMP = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (64, 1))


def with_alpha() -> Image.Image:
    """A grey ramp that an alpha channel hides entirely."""
    return Image.merge("RGBA", [*[Image.fromarray(RAMP)] * 3, Image.new("L", (64, 64), 0)])


def palette(transparency: bytes | int) -> bytes:
    image = Image.fromarray(RAMP).convert("RGB").quantize(16)
    return encoded(image, "PNG", transparency=transparency)


def turned() -> bytes:
    """A ramp whose EXIF says that the camera was held sideways."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(Image.fromarray(RAMP), "JPEG", exif=exif)


def deep(dtype: Any) -> bytes:
    return encoded(
        Image.fromarray(RAMP.astype(dtype) * 257), "PNG" if dtype is np.uint16 else "TIFF"
    )


RAMPS: dict[str, Callable[[], bytes]] = {
    "grey": lambda: encoded(Image.fromarray(RAMP), "PNG"),
    "grey-jpeg": lambda: encoded(Image.fromarray(RAMP), "JPEG"),
    "cmyk": lambda: encoded(Image.fromarray(RAMP).convert("CMYK"), "JPEG"),
    "16-bit": lambda: deep(np.uint16),
    "32-bit": lambda: deep(np.int32),
    "alpha": lambda: encoded(with_alpha(), "PNG"),
    "palette": lambda: palette(3),
    "palette-alpha": lambda: palette(bytes(range(0, 256, 16))),
    "exif": turned,
}


def loaded(mode: Mode, content: bytes) -> Tensor:
    augmentation = make_train_augmentation(mode, PLAIN)
    seed_all(0)
    out = augmentation.image(content)
    sample = (
        Sample(out, 0, (), 0)
        if isinstance(out, Tensor)
        else Sample(out.image_CHW, 0, (), 0, out.drawn)
    )
    return augmentation.batch(collate([sample]))


@pytest.mark.parametrize("decode", [decode_rgb, decode_tensor])
@pytest.mark.parametrize("name", RAMPS)
def test_every_mode_shows_the_same_ramp(name: str, decode: Callable[[bytes], Any]) -> None:
    """Includes 16 bits, which Pillow would clip to white; pixels hidden by alpha are shown; the
    EXIF orientation is not applied."""
    decoded = decode(RAMPS[name]())
    pixels = (
        decoded.permute(1, 2, 0).numpy() if isinstance(decoded, Tensor) else np.asarray(decoded)
    )
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - RAMP[:, :, None]).max() <= 24  # a palette has 16 colours


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", RAMPS)
def test_every_mode_is_read_by_each_loader(name: str, mode: Mode) -> None:
    x, grey = loaded(mode, RAMPS[name]()), loaded(mode, RAMPS["grey"]())
    assert x.shape == (1, 3, 64, 64)
    assert (x - grey).abs().max() < 0.45  # of 4.4 between black and white


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"404 not found",
        encoded(photographs()[0], "JPEG")[:9000],
        encoded(photographs()[0], "JPEG")[:200],
        encoded(photographs()[0].resize((90, 60)), "PNG")[:3000],
    ],
    ids=["empty", "text", "truncated", "header", "truncated-png"],
)
def test_broken_file_is_reported_by_each_loader(content: bytes, mode: Mode) -> None:
    with pytest.raises(BrokenImageError):
        loaded(mode, content)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    "options", [{"quality": 60}, {"quality": 95, "subsampling": 0}, {"progressive": True}]
)
def test_both_decoders_see_the_same_pixels(mode: str, options: dict[str, Any]) -> None:
    content = encoded(photographs()[1].convert(mode), "JPEG", **options)
    image_CHW = decode_tensor(content)  # noqa: N806
    assert torch.equal(image_CHW, torch.from_numpy(np.array(decode_rgb(content))).permute(2, 0, 1))
    assert image_CHW.stride(0) == 1
