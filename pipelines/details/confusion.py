"""The confusion matrix: how often each class was predicted as each other class. It is sparse,
because a dense one for ImageNet-21K would take 4 GB."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST_PLOT = 2000
"""The most classes of a matrix that is drawn. With more, a class would be smaller than a pixel."""
LARGEST_LABELED = 200
"""The most classes for which the plot shows names at its edges."""

Counts = Mapping[tuple[int, int], int]
"""Counts by (true, predicted) label, without zeros."""


@dataclass(frozen=True)
class Confusion:
    """Counts by true and predicted class."""

    classes: tuple[str, ...]
    counts: Counts

    def dense(self) -> NDArray[np.int64]:
        """The dense matrix, of shape (true, predicted)."""
        matrix_TP = np.zeros((len(self.classes), len(self.classes)), np.int64)
        for (true, predicted), count in self.counts.items():
            matrix_TP[true, predicted] = count
        return matrix_TP

    def write(self, directory: Path, *, counted: str, **about: float) -> None:
        """Writes `confusion.json` and, for up to LARGEST_PLOT classes, `confusion.png`.

        In the JSON, `counted` names what is counted and `about` gives the thresholds. `counts` are
        [true, predicted, number] by index in `classes`, without zeros.
        """
        counts = [[*pair, count] for pair, count in sorted(self.counts.items())]
        document = {"counted": counted, **about, "classes": list(self.classes), "counts": counts}
        text = json.dumps(document, allow_nan=False, ensure_ascii=False) + "\n"
        (directory / "confusion.json").write_text(text, encoding="utf-8")
        if len(self.classes) <= LARGEST_PLOT:
            _plot(self, directory / "confusion.png", counted)


def count_pairs(
    true_N: NDArray[np.int64], predicted_N: NDArray[np.int64]
) -> dict[tuple[int, int], int]:
    """How often each pair of labels occurs at the same index of both arrays."""
    width = int(predicted_N.max(initial=0)) + 1
    pairs, counts = np.unique(true_N.astype(np.int64) * width + predicted_N, return_counts=True)
    return {divmod(int(pair), width): int(count) for pair, count in zip(pairs, counts, strict=True)}


def sum_counts(parts: Sequence[Counts]) -> dict[tuple[int, int], int]:
    total: dict[tuple[int, int], int] = {}
    for part in parts:
        for pair, count in part.items():
            total[pair] = total.get(pair, 0) + count
    return total


def _plot(confusion: Confusion, path: Path, counted: str) -> None:
    """Plots each row as shares of its true class, so that rare classes are as visible as frequent
    ones."""
    from matplotlib.figure import Figure  # noqa: PLC0415  half a second that only rank 0 pays, once

    matrix_TP = confusion.dense().astype(np.float64)
    shares_TP = matrix_TP / np.maximum(matrix_TP.sum(axis=1, keepdims=True), 1)
    num_classes = len(confusion.classes)
    side_in = min(max(5.0, 0.16 * num_classes + 2), 30.0)
    figure = Figure(figsize=(side_in, side_in), layout="constrained")
    axes = figure.add_subplot()
    shown = axes.imshow(100 * shares_TP, vmin=0, vmax=100, cmap="Blues", interpolation="nearest")
    axes.set_xlabel("predicted")
    axes.set_ylabel(f"true; {counted} in % of the row")
    if num_classes <= LARGEST_LABELED:
        # a dollar in a name is a dollar, not TeX
        look: dict[str, Any] = {"fontsize": 8, "parse_math": False}
        axes.set_xticks(range(num_classes), confusion.classes, rotation=90, **look)
        axes.set_yticks(range(num_classes), confusion.classes, **look)
    figure.colorbar(shown, ax=axes, shrink=0.8)
    figure.savefig(path, dpi=100, metadata={"Software": None})
