"""The command line of `python -m benchmarks.model_speed`, as a checked value."""

from __future__ import annotations

import argparse
import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

import timm
import torch

from cat_model import CONFIGS

Mode = Literal["forward", "train"]
Precision = Literal["fp32", "bf16"]
Run = Literal["eager", "checkpointed", "compiled", "graphs"]
"""How a network is run.

`eager`: without changes. `checkpointed`: its blocks are recomputed in backward. `compiled`: by
torch.compile. `graphs`: by torch.compile with CUDA graphs.
"""
RIVALS = ("swin_tiny_patch4_window7_224", "swin_small_patch4_window7_224", "convnext_tiny")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
STRIDE = 32
"""Pixels per position of the last map, along one side; the same in all measured models."""
_RUN_OF_COMPILE: dict[str, Run] = {"default": "compiled", "reduce-overhead": "graphs"}
_NOT_IN: dict[Mode, tuple[Run, ...]] = {"forward": ("checkpointed",), "train": ("graphs",)}


@dataclass(frozen=True)
class Case:
    """The work of all contestants in the same rounds. bf16 is autocast with float32 weights."""

    mode: Mode
    precision: Precision
    batch_size: int


@dataclass(frozen=True)
class Settings:
    """The command line, checked. Ratios are relative to the first of `rivals`."""

    models: tuple[str, ...]
    rivals: tuple[str, ...]
    modes: tuple[Mode, ...]
    precisions: tuple[Precision, ...]
    runs: tuple[Run, ...]
    batch_sizes: tuple[int, ...]
    rounds: int
    device: Literal["cpu", "cuda"]
    threads: int | None
    """None: torch's default."""
    img_size: int
    is_tf32: bool
    json: Path | None

    def cases(self) -> list[Case]:
        return [Case(*values) for values in product(self.modes, self.precisions, self.batch_sizes)]

    def runs_of(self, mode: Mode) -> list[Run]:
        return [run for run in self.runs if run not in _NOT_IN[mode]]


def parse_settings(arguments: Sequence[str] | None) -> Settings:
    """Exit with 2 if an option is wrong; the message names it and the values it takes."""
    parser = _parser()
    parsed = parser.parse_args(arguments)
    runs: list[Run] = ["eager"]
    runs += ["checkpointed"] if parsed.checkpointing else []
    runs += (
        []
        if parsed.compile is None
        else [_RUN_OF_COMPILE[mode] for mode in parsed.compile or ["default"]]
    )
    settings = Settings(
        models=_unique(parsed.models),
        rivals=_unique(parsed.rivals),
        modes=_unique(parsed.mode),
        precisions=_unique(parsed.precision),
        runs=_unique(runs),
        batch_sizes=_unique(parsed.batch_sizes),
        rounds=parsed.rounds,
        device=parsed.device,
        threads=parsed.threads,
        img_size=parsed.img_size,
        is_tf32=parsed.tf32,
        json=parsed.json,
    )
    fault = _fault(settings)
    if fault:
        parser.error(fault)
    return settings


def _fault(settings: Settings) -> str | None:
    """A message about options that conflict or do not work on this machine, else None."""
    is_cpu = settings.device == "cpu"
    if not is_cpu and not torch.cuda.is_available():
        return "--device cuda: torch finds no CUDA device here; use --device cpu"
    if is_cpu and settings.is_tf32:
        return "--tf32: needs a CUDA device; leave it out, or use --device cuda"
    if "graphs" in settings.runs and (is_cpu or "forward" not in settings.modes):
        return "--compile reduce-overhead: needs --device cuda and --mode forward (CUDA graphs)"
    if "checkpointed" in settings.runs and "train" not in settings.modes:
        return "--checkpointing: has no effect on a forward pass; use --mode train"
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.model_speed",
        description=(
            "Measure CAT and models of timm in one process, round by round in alternating order."
        ),
    )
    add = parser.add_argument
    add(
        "--models",
        nargs="+",
        choices=tuple(CONFIGS),
        default=list(CONFIGS),
        help="default: all three",
    )
    add(
        "--rivals",
        nargs="*",
        type=_rival,
        metavar="NAME",
        default=list(RIVALS),
        help="models of timm; ratios are relative to the first",
    )
    add(
        "--mode",
        nargs="+",
        choices=get_args(Mode),
        default=["forward", "train"],
        help="default: both",
    )
    add(
        "--precision",
        nargs="+",
        choices=get_args(Precision),
        default=["fp32", "bf16"],
        help="default: both",
    )
    add(
        "--compile",
        nargs="*",
        choices=tuple(_RUN_OF_COMPILE),
        help="also measure torch.compile, in these modes",
    )
    add(
        "--checkpointing",
        action="store_true",
        help="also measure training that recomputes its blocks in backward",
    )
    add("--batch-sizes", nargs="+", type=a_count, default=[8], metavar="N", help="default: 8")
    add("--rounds", type=a_count, default=7, metavar="N", help="default: 7")
    add("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    add("--threads", type=a_count, metavar="N", help="CPU threads; default: torch's")
    add(
        "--img-size",
        type=_side,
        default=224,
        metavar="PIXELS",
        help=f"a multiple of {STRIDE}; default: 224",
    )
    add("--tf32", action="store_true", help="use TF32 for float32 products on a CUDA device")
    add(
        "--json",
        type=a_file,
        metavar="PATH",
        help="write all measurements as one JSON document",
    )
    return parser


def _unique(values: Sequence[Any]) -> tuple[Any, ...]:
    """The distinct values, in their order. `choices` has already checked literals."""
    return tuple(dict.fromkeys(values))


def a_count(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text!r}")
    return int(text)


def _side(text: str) -> int:
    side = a_count(text)
    if side % STRIDE:
        raise argparse.ArgumentTypeError(
            f"must be a multiple of {STRIDE} pixels, the stride of the models, got {side}"
        )
    return side


def _rival(text: str) -> str:
    if not timm.is_model(text):
        near = difflib.get_close_matches(text, timm.list_models(), n=1)
        raise argparse.ArgumentTypeError(
            f"timm has no model {text!r}" + (f", did you mean {near[0]!r}?" if near else "")
        )
    return text


def a_file(text: str) -> Path:
    """A file to write; checked before the measurement rather than after it."""
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"must be a file in a writable folder, got {text!r}")
    return path
