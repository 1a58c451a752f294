"""The command line of `python -m benchmarks.data_loading` as a checked value; what is wrong with it
exits with 2."""

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
    """Of which a pass of each contestant consists; whole batches of them."""
    batch_size: int
    rounds: int
    img_size: int
    device: Literal["cpu", "cuda"]
    """Where the batch's part of `augmentation: device` is timed too, beside the CPU."""
    json: Path | None


def parse_settings(arguments: Sequence[str] | None) -> Settings:
    """Exits with 2 and a message that names the option and what it takes."""
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
            "Compare the CPU time of loading and augmenting an image by timm's path and by ours."
        ),
    )
    add = parser.add_argument
    add(
        "--images",
        type=a_count,
        default=512,
        metavar="N",
        help="of a contestant's part of a round; default: 512",
    )
    add("--batch-size", type=a_count, default=64, metavar="N", help="default: 64")
    add("--rounds", type=a_count, default=5, metavar="N", help="default: 5")
    add("--img-size", type=a_count, default=224, metavar="PIXELS", help="default: 224")
    add("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    add(
        "--json",
        type=a_file,
        metavar="PATH",
        help="write everything that was measured as one JSON document",
    )
    return parser
