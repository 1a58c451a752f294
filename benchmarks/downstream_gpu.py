"""`python -m benchmarks.downstream_gpu`: rate and memory of detector and segmenter training.

Each published network trains on random images of the published size that are on the device. The
benchmark first measures the focal loss: plain, compiled, and torchvision's by autograd. Then it
runs the most important cases first: all methods, then in DistributedDataParallel on a group of one,
with and without the search for unused parameters, then compiled. No case starts after --minutes,
because time on a GPU is limited. docs/performance.md has results.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torchvision.ops import sigmoid_focal_loss

from benchmarks.command import at_least
from benchmarks.speed.machine import describe_machine
from benchmarks.speed.rounds import Spread
from benchmarks.training.downstream import METHODS, Case, Step
from benchmarks.training.shares import IDLE, shares
from benchmarks.training.windows import measure, measure_pace
from cat_model import CONFIGS
from cat_model.weights.files import write_atomically
from pipelines.openmmlab import kernels

COMPILE_S = 60.0
"""The time reserved for a compilation: with less time left, none starts."""
DETECTION_HW, SEGMENTATION_HW = (800, 1088), (512, 512)
"""A landscape of COCO (4:3) at the published scale, padded; a crop of ADE20K."""
NUM_ANCHORS_PER_CELL = 9
STRIDES = (8, 16, 32, 64, 128)
_EXIT_NOTHING_MEASURED = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0, 1 if nothing could be measured, 2 for wrong arguments."""
    options = _parse(arguments)
    device = torch.device(options.device)
    document: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(device),
        "focal_loss_ms": {},
        "results": [],
        "skipped": [],
    }
    deadline_s = time.monotonic() + 60 * options.minutes
    print(f"{document['machine']['device']}, torch {torch.__version__}, {document['date']}")
    with tempfile.TemporaryDirectory() as folder:
        _join_group_of_one(Path(folder), device)
        try:
            _measure_focal_loss(document, options, device)
            for case in cases(options):
                _try(case, document, device, deadline_s)
                _write(document, options.json)
        finally:
            dist.destroy_process_group()
    return 0 if document["results"] else _EXIT_NOTHING_MEASURED


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """Yield the cases, the most important first."""
    plain = [
        Case(method, backbone, options.batch_size, _image_hw(method, options.img_scale), precision)
        for backbone, precision, method in product(
            options.backbones, options.precisions, options.methods
        )
    ]
    yield from plain
    last = options.precisions[-1]
    chosen = [
        case for case in plain if case.precision == last and case.backbone == options.backbones[0]
    ]
    if options.ddp:
        yield from (
            replace(case, ddp=ddp)
            for case in chosen
            for ddp in ("all", "search")
            if _may(case, ddp)
        )
    if options.compile:
        yield from (replace(case, is_compiled=True) for case in chosen)


def focal_loss_ways(*, compiles: bool) -> dict[str, Callable[..., object]]:
    """Forward and backward passes of the focal loss, by name.

    They are our adapter's, the same compiled, and torchvision's by autograd.
    """
    args = (2.0, 0.25)

    def plain(logits_NK: Tensor, targets_N: Tensor, weight_K: Tensor) -> tuple[Tensor, Tensor]:  # noqa: N803
        passes = (kernels.focal_loss, kernels.focal_loss_gradient)
        loss_NK, gradient_NK = (run(logits_NK, targets_N, weight_K, *args) for run in passes)  # noqa: N806
        return loss_NK, gradient_NK

    def rival(logits_NK: Tensor, targets_N: Tensor, weight_K: Tensor) -> Tensor:  # noqa: N803
        num_classes = logits_NK.shape[1]
        one_hot_NK = F.one_hot(targets_N, num_classes + 1)[:, :num_classes].to(logits_NK)  # noqa: N806
        leaf_NK = logits_NK.detach().requires_grad_()  # noqa: N806
        sigmoid_focal_loss(leaf_NK, one_hot_NK, alpha=0.25, gamma=2.0, reduction="sum").backward()
        return leaf_NK

    return {
        "plain": plain,
        **({"compiled": torch.compile(plain)} if compiles else {}),
        "torchvision": rival,
    }


def num_anchors(image_hw: tuple[int, int]) -> int:
    """Anchors of an image, over all levels."""
    height, width = image_hw
    return NUM_ANCHORS_PER_CELL * sum(
        -(-height // stride) * -(-width // stride) for stride in STRIDES
    )


def _measure_focal_loss(
    document: dict[str, Any], options: argparse.Namespace, device: torch.device
) -> None:
    num = options.batch_size * num_anchors(_image_hw("retinanet", options.img_scale))
    logits_NK = torch.randn(num, 80, device=device)  # noqa: N806
    targets_N = torch.randint(0, 81, (num,), device=device)  # noqa: N806
    for name, way in focal_loss_ways(compiles=options.compile).items():
        pace = measure_pace(partial(way, logits_NK, targets_N, logits_NK.new_empty(0)), device)
        spread = Spread.of([1e3 * seconds for seconds in pace.windows_s])
        document["focal_loss_ms"][name] = spread._asdict()
        print(
            (
                f"focal loss of {num} x 80 logits, forward and backward, {name}: "
                f"{spread.median:.3g} ms"
            ),
            flush=True,
        )


def _may(case: Case, ddp: str) -> bool:
    """Whether DDP works for the case in this way.

    Dense detectors leave the norm of the first map without a gradient, so DDP needs the search for
    unused parameters.
    """
    return ddp == "search" or case.method in ("mask_rcnn", "cascade_rcnn", "semantic_fpn")


def _try(case: Case, document: dict[str, Any], device: torch.device, deadline_s: float) -> None:
    lacks_time = time.monotonic() + (COMPILE_S if case.is_compiled else 0.0) > deadline_s
    reason = "out of time" if lacks_time else _measure(case, document, device)
    if reason is not None:
        document["skipped"].append({**asdict(case), "reason": reason})
        print(f"{_label(case)}  skipped: {reason}", flush=True)
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _measure(case: Case, document: dict[str, Any], device: torch.device) -> str | None:
    """Measure a case; return the reason if it could not be measured, else None."""
    try:
        with kernels.compiled_focal_loss() if case.is_compiled else nullcontext():
            step = Step(case, device)
            measured = measure(case, step, device)
            found = shares(step, step_s=measured.step_s, device=device)
    except torch.OutOfMemoryError:
        return "out of memory"
    except RuntimeError as err:
        # After an AcceleratorError the device cannot be used.
        if not case.is_compiled or isinstance(err, torch.AcceleratorError):
            raise
        return f"cannot be compiled here: {str(err).strip().partition(chr(10))[0]}"
    values = {"images_per_s": measured.images_per_s._asdict(), "peak_bytes": measured.peak_bytes}
    document["results"].append(
        {"case": asdict(case), **values, "warm_up_s": measured.warm_up_s, "shares": found}
    )
    rates = measured.images_per_s
    print(
        f"{_label(case)}{rates.median:9.4g} images/s ({rates.min:.4g}..{rates.max:.4g})  "
        f"{1e3 * measured.step_s:7.4g} "
        f"ms an iteration, idle {found[IDLE]:.0%}  {measured.peak_bytes / 2**30:6.2f} GiB  "
        f"warm-up {measured.warm_up_s:.1f} s",
        flush=True,
    )
    return None


def _join_group_of_one(folder: Path, device: torch.device) -> None:
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{folder}/group", rank=0, world_size=1)


def _image_hw(method: str, img_scale: Sequence[int] | None) -> tuple[int, int]:
    if img_scale is not None:
        return img_scale[0], img_scale[1]
    return SEGMENTATION_HW if method == "semantic_fpn" else DETECTION_HW


def _label(case: Case) -> str:
    compiled = " compiled" if case.is_compiled else ""
    ddp = "" if case.ddp == "none" else f" ddp {case.ddp}"
    ways = f"{case.precision}{compiled}{ddp}"
    return (
        f"{case.method:<14}{case.backbone:<11}{case.batch_size:>3} of "
        f"{case.image_hw[0]}x{case.image_hw[1]}  {ways:<16}"
    )


def _write(document: dict[str, Any], path: Path | None) -> None:
    if path is not None:
        write_atomically(path, (json.dumps(document, indent=2) + "\n").encode())


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.downstream_gpu",
        description=(
            "Measure rate and memory of training detectors and segmenters on a device: "
            "plain, compiled and in DDP."
        ),
    )
    add: Callable[..., Any] = parser.add_argument
    add("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="default: all")
    add(
        "--backbones",
        nargs="+",
        choices=tuple(CONFIGS),
        default=["cat_small", "cat_base"],
        help="default: S and B",
    )
    add("--precisions", nargs="+", choices=("fp32", "bf16", "fp16"), default=["fp32", "bf16"])
    add(
        "--batch-size",
        type=at_least(1),
        default=2,
        metavar="N",
        help="images in a batch; default: 2, as published",
    )
    add(
        "--img-scale",
        type=at_least(32),
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="default: as published",
    )
    add(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also measure the last precision compiled",
    )
    add(
        "--ddp",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also measure the last precision in DDP",
    )
    add(
        "--minutes",
        type=float,
        default=5.0,
        metavar="N",
        help="start no case after N minutes; default: 5",
    )
    add("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    add(
        "--json",
        type=Path,
        metavar="PATH",
        help="write all measurements as one JSON document, after each case",
    )
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device here; use --device cpu")
    if options.img_scale and any(side % 32 for side in options.img_scale):
        parser.error(f"--img-scale: sides must be multiples of 32, got {options.img_scale}")
    if options.img_scale and "semantic_fpn" in options.methods and len(set(options.img_scale)) > 1:
        parser.error(f"--img-scale: semantic_fpn needs equal sides, got {options.img_scale}")
    if options.json is not None and not os.access(options.json.parent, os.W_OK):
        parser.error(f"--json: {options.json.parent} is not a writable folder")
    return options


if __name__ == "__main__":
    sys.exit(main())
