"""`python -m cat_model.convert IN OUT`: converts a checkpoint for timm, mmdet or safetensors.

    timm         a classifier for `timm.create_model('cat_tiny', checkpoint_path=OUT)`
    mmdet        a backbone for `init_cfg=dict(type='Pretrained', checkpoint=OUT)`; norm0..3 are
                 new if IN has none
    safetensors  the classifier or backbone of IN, with a description of the network in the metadata

IN may have any known layout. Without `--to`, the suffix of OUT decides: .safetensors means
safetensors, .pth means timm. OUT is written completely or not at all.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from cat_model.backbone import CatBackbone
from cat_model.config import CONFIGS, CatConfig
from cat_model.errors import WeightsError
from cat_model.printing import exit_code_of
from cat_model.weights.description import KEY, Description
from cat_model.weights.files import write_atomically
from cat_model.weights.fitting import Allowance, Fit, fit
from cat_model.weights.identify import Checkpoint, load_checkpoint
from cat_model.weights.load import classifier_to_backbone

TARGETS = ("timm", "mmdet", "safetensors")
_TARGET_OF_SUFFIX = {".safetensors": "safetensors", ".pth": "timm"}
_EXIT_BAD_INPUT = 2


class UsageError(ValueError):
    """The command cannot be carried out; the text says what to change."""


@dataclass(frozen=True)
class Options:
    """The checked command line."""

    source: Path
    out: Path
    target: str
    img_size: tuple[int, int] | None
    model: str | None
    allow_unexpected: bool


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0 if OUT was written, 2 for bad input, which one message on stderr
    explains."""
    try:
        lines = convert(_parse(arguments))
    except (UsageError, WeightsError, OSError) as err:
        print(f"cat_model.convert: {err}", file=sys.stderr)
        return _EXIT_BAD_INPUT
    print("\n".join(lines))
    return 0


def convert(options: Options) -> list[str]:
    """Writes `options.out` and returns the report as lines. Raises WeightsError, UsageError or
    OSError."""
    checkpoint = load_checkpoint(
        options.source, model=options.model, allow_unexpected=options.allow_unexpected
    )
    config = _resized(checkpoint.config, options.img_size)
    if options.target == "timm" and not checkpoint.is_classifier:
        raise UsageError(
            f"{options.source}: is a backbone without the head that timm needs; use --to mmdet"
        )
    fitted = _fit(checkpoint, config, options)
    # clones: views of shared memory would be saved with all of it, or refused
    tensors = {
        name: tensor.clone(memory_format=torch.contiguous_format)
        for name, tensor in fitted.tensors.items()
    }
    classes = None if options.target == "mmdet" else checkpoint.classes
    content = _serialise(tensors, Description(config, classes), options.out)
    digest = write_atomically(options.out, content)
    kind = "classifier" if checkpoint.is_classifier else "backbone"
    network = checkpoint.name or f"not a published size: {checkpoint.config}"
    return [
        f"{options.source}: {kind}, {network}",
        *fitted.report.lines(),
        f"wrote {options.out} for {options.target}, {len(content)} bytes",
        f"sha256 {digest}",
    ]


def _fit(checkpoint: Checkpoint, config: CatConfig, options: Options) -> Fit:
    """The tensors of OUT. For mmdet, a classifier becomes a backbone: its norm and head are left
    out."""
    weights = checkpoint.weights
    model = checkpoint.make_model(config)
    if options.target == "mmdet" and checkpoint.is_classifier:
        with torch.device("meta"):
            model = CatBackbone(config, out_indices=range(len(config.depths)))
    allow = (
        classifier_to_backbone(model, weights) if isinstance(model, CatBackbone) else Allowance()
    )
    if options.allow_unexpected:
        allow = replace(allow, unexpected=frozenset(weights.tensors))
    return fit(model.state_dict(), weights, source=checkpoint.source, allow=allow, resize=True)


def _resized(config: CatConfig, img_size: tuple[int, int] | None) -> CatConfig:
    try:
        return config if img_size is None else replace(config, img_size=img_size)
    except ValueError as err:
        raise UsageError(f"--img-size: {err}") from err


def _serialise(tensors: Mapping[str, Tensor], description: Description, out: Path) -> bytes:
    """The bytes of OUT, which depend only on the tensors, the description and the suffix."""
    document = description.to_dict()
    if out.suffix == ".safetensors":
        # a single entry: safetensors writes several entries in an order that changes from run to
        # run
        return bytes(save(dict(tensors), metadata={KEY: json.dumps(document)}))
    buffer = io.BytesIO()
    torch.save({"state_dict": dict(tensors), "meta": {KEY: document}}, buffer)
    return buffer.getvalue()


def _parse(arguments: Sequence[str]) -> Options:
    parser = argparse.ArgumentParser(
        prog="python -m cat_model.convert", description="Converts a checkpoint of CAT."
    )
    parser.add_argument(
        "source",
        metavar="IN",
        type=Path,
        help="a .pth or .safetensors file, or a folder written by save_classifier",
    )
    parser.add_argument("out", metavar="OUT", type=Path)
    parser.add_argument(
        "--to", choices=TARGETS, help="by default safetensors for .safetensors, timm for .pth"
    )
    parser.add_argument(
        "--img-size",
        metavar="N|HxW",
        type=_parse_size,
        help="pixels; resizes the position embedding",
    )
    parser.add_argument(
        "--model", choices=tuple(CONFIGS), help="the size, if the tensors do not determine it"
    )
    parser.add_argument(
        "--allow-unexpected", action="store_true", help="leave out tensors that a CAT does not have"
    )
    parser.add_argument("--force", action="store_true", help="overwrite OUT")
    parsed = parser.parse_args(arguments)
    target = parsed.to or _TARGET_OF_SUFFIX.get(parsed.out.suffix)
    if target is None:
        raise UsageError(
            f"{parsed.out}: unknown suffix; choose the target: --to {' | '.join(TARGETS)}"
        )
    _check_out(parsed.out, target, is_forced=parsed.force)
    return Options(
        parsed.source, parsed.out, target, parsed.img_size, parsed.model, parsed.allow_unexpected
    )


def _check_out(out: Path, target: str, *, is_forced: bool) -> None:
    """Raises UsageError for an unusable OUT before any work is done."""
    if target == "safetensors" and out.suffix != ".safetensors":
        raise UsageError(f"{out}: must end in .safetensors, because readers check the suffix")
    if target == "mmdet" and out.suffix == ".safetensors":
        raise UsageError(f"{out}: mmengine cannot read .safetensors; name it .pth")
    if out.suffix in (".npy", ".npz"):
        raise UsageError(
            f"{out}: timm reads {out.suffix} as NumPy arrays; name it .pth or .safetensors"
        )
    if out.is_dir():
        raise UsageError(f"{out}: is a folder; give a file")
    if out.exists() and not is_forced:
        raise UsageError(f"{out}: exists; use --force to overwrite it, or choose another name")
    if not out.parent.is_dir():
        raise UsageError(f"{out.parent}: no such folder; create it first")


def _parse_size(text: str) -> tuple[int, int]:
    height, cross, width = text.partition("x")
    try:
        return int(height), int(width if cross else height)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be pixels, such as 448 or 384x640, got {text!r}"
        ) from None


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
