"""`python -m pipelines.sample DIR`: makes the sample data sets that the quickstart job and the
tests train on."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from orchestrator.errors import DataError
from orchestrator.streams import exit_code_of
from pipelines.sample.folder import Size, write_sample


def main(arguments: Sequence[str] | None = None) -> int:
    parsed = _parser().parse_args(arguments)
    size = Size(parsed.train_scenes, parsed.val_scenes, parsed.scans_per_class)
    try:
        written = write_sample(parsed.dir, size)
    except DataError as err:
        print(f"error: {err}", file=sys.stderr)
        return err.exit_code
    if written.num_written == 0:
        print(f"{parsed.dir}: complete already, {written.num_files} files")
    else:
        print(f"{parsed.dir}: wrote {written.num_written} of {written.num_files} files")
    return 0


def _parser() -> argparse.ArgumentParser:
    default = Size()
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.sample",
        description=(
            "Make imagenet/, coco/ and ade20k/ below DIR from scikit-learn's handwritten digits."
        ),
    )
    parser.add_argument("dir", type=Path, metavar="DIR")
    parser.add_argument("--train-scenes", type=_count, default=default.train_scenes, metavar="N")
    parser.add_argument("--val-scenes", type=_count, default=default.val_scenes, metavar="N")
    parser.add_argument(
        "--scans-per-class",
        type=_scans,
        default=default.scans_per_class,
        metavar="N",
        help="at least 5; default: all",
    )
    return parser


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def _scans(text: str) -> int:
    value = int(text)
    if value < 5:  # noqa: PLR2004  every fifth scan is held out, so fewer would leave val empty
        raise ValueError(text)
    return value


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
