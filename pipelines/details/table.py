"""Writes the table by class: `per_class.json` and, for spreadsheets, `per_class.csv`."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

Row = Mapping[str, str | float | None]
"""The field `class`, then numbers: shares in %, and counts. None: nothing to measure, for example a
class that val does not contain."""


def write_per_class(directory: Path, rows: Sequence[Row]) -> None:
    """Writes both files. All rows have the same fields. The JSON is `{"unit": "%", "classes": [row,
    ...]}`."""
    document = {"unit": "%", "classes": [dict(row) for row in rows]}
    text = json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    (directory / "per_class.json").write_text(text, encoding="utf-8")
    with (directory / "per_class.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def percent(share: float) -> float | None:
    """A share in %, or None for NaN, which is a share of nothing."""
    return None if math.isnan(share) else 100 * float(share)
