"""The command `python -m pipelines.complexity`: prints the parameters and FLOPs of all published
COCO and ADE20K rows."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from orchestrator.streams import exit_code_of
from pipelines.complexity.rows import Row, make_rows

LINE = "{:10} {:13} {:11} {:8} {:>9} {:>8}"


def main(arguments: Sequence[str] | None = None) -> int:
    parsed = _parser().parse_args(arguments)
    rows = make_rows()
    print(
        json.dumps({"rows": [asdict(row) for row in rows]}, indent=2)
        if parsed.json
        else table(rows)
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.complexity",
        description="Count the parameters and FLOPs of the published rows as mmcv 1.x does: "
        "a multiply-accumulate counts as one. Images have 1280x800 pixels for detectors and "
        "1024x1024 for segmenters.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def table(rows: Sequence[Row]) -> str:
    head = LINE.format("backbone", "method", "multi_scale", "schedule", "params, M", "FLOPs, G")
    lines = (
        LINE.format(
            row.backbone,
            row.method,
            "yes" if row.multi_scale else "no",
            row.schedule,
            f"{row.params_m:.2f}",
            f"{row.flops_g:.2f}",
        )
        for row in rows
    )
    return "\n".join([head, *lines])


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
