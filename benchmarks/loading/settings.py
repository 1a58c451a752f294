"""The command line of `python -m benchmarks.data_loading`, as a checked value."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from benchmarks.speed.settings import a_count, a_file


@dataclass(frozen=True)
class Settings:
    """The command line, checked."""

    images: int
    """Images in a contestant's pass; a multiple of `batch_size`."""
    batch_size: int
    rounds: int
    img_size: int
    device: Literal["cpu", "cuda"]
    """Where to time the batch's part of `augmentation: device`, in addition to the CPU."""
    json: Path | None


def parse_settings(arguments: Sequence[str] | None) -> Settings:
    """Exit with 2 if an option is wrong; the message names it and the values it takes."""
    parser = _parser()
    parsed = parser.parse_args(arguments)
    if parsed.images % parsed.batch_size:
        parser.error(
            f"--images: must be a multiple of --batch-size, {parsed.batch_size}, got "
            f"{parsed.images}"
        )
    if parsed.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device here; use --device cpu")
    return Settings(**vars(parsed))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.data_loading",
        description=(
            "Compare the CPU time to load and augment an image with timm's code and with ours."
        ),
    )
    add = parser.add_argument
    add(
        "--images",
        type=a_count,
        default=512,
        metavar="N",
        help="images in a contestant's part of a round; default: 512",
    )
    add("--batch-size", type=a_count, default=64, metavar="N", help="default: 64")
    add("--rounds", type=a_count, default=5, metavar="N", help="default: 5")
    add("--img-size", type=a_count, default=224, metavar="PIXELS", help="default: 224")
    add("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    add(
        "--json",
        type=a_file,
        metavar="PATH",
        help="write all measurements as one JSON document",
    )
    return parser
