"""Scans of handwritten digits (scikit-learn's bundled set), split once for every sample data
set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "val"]
Ink = NDArray[np.float32]
"""Coverage by ink, 0 to 1."""

NAMES = tuple(str(digit) for digit in range(10))
VAL_EVERY = 5
"""Every fifth scan of a digit goes to val."""


@dataclass(frozen=True, eq=False)
class Scan:
    """One scan of 8x8 px; `index` is its index in scikit-learn's set."""

    index: int
    digit: int
    ink: Ink


def load_scans() -> tuple[Scan, ...]:
    """All 1,797 scans; no two of them are equal."""
    from sklearn.datasets import load_digits  # noqa: PLC0415  takes two seconds; not needed if the sample exists

    digits = load_digits()
    ink = (digits.images / digits.images.max()).astype(np.float32)
    return tuple(Scan(index, int(digit), ink[index]) for index, digit in enumerate(digits.target))


def split_scans(
    scans: Sequence[Scan], *, scans_per_class: int | None
) -> dict[Split, tuple[Scan, ...]]:
    """Each scan in exactly one split; for each digit the first `scans_per_class` scans, or all."""
    of_digit: defaultdict[int, list[Scan]] = defaultdict(list)
    for scan in scans:
        of_digit[scan.digit].append(scan)
    kept = [
        (rank, scan) for one in of_digit.values() for rank, scan in enumerate(one[:scans_per_class])
    ]
    return {
        "train": tuple(scan for rank, scan in kept if not _is_held_out(rank)),
        "val": tuple(scan for rank, scan in kept if _is_held_out(rank)),
    }


def _is_held_out(rank: int) -> bool:
    return rank % VAL_EVERY == VAL_EVERY - 1
