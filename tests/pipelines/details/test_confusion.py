"""Confusion matrices are counted, summed and written, and plotted if a class is at least a
pixel."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.details.confusion import LARGEST_PLOT, Confusion, count_pairs, sum_counts
from pipelines.details.table import percent, write_per_class


def test_pairs_are_counted_as_in_a_dense_matrix() -> None:
    rng = np.random.default_rng(0)
    true, predicted = rng.integers(0, 5, (2, 400))
    expected = np.zeros((5, 5), np.int64)
    np.add.at(expected, (true, predicted), 1)
    confusion = Confusion(tuple("abcde"), count_pairs(true, predicted))
    assert (confusion.dense() == expected).all()
    halves = [count_pairs(true[:150], predicted[:150]), count_pairs(true[150:], predicted[150:])]
    assert sum_counts(halves) == confusion.counts


def test_empty_arrays_give_no_counts() -> None:
    nothing = np.array([], np.int64)
    assert count_pairs(nothing, nothing) == {}


def test_confusion_file_names_what_it_counts(tmp_path: Path) -> None:
    Confusion(("wall", "ciel"), {(1, 0): 3, (0, 0): 7}).write(
        tmp_path, counted="objects", iou_threshold=0.5
    )
    assert json.loads((tmp_path / "confusion.json").read_text()) == {
        "counted": "objects",
        "iou_threshold": 0.5,
        "classes": ["wall", "ciel"],
        "counts": [[0, 0, 7], [1, 0, 3]],
    }


def test_plot_of_many_classes_has_a_size_limit(tmp_path: Path) -> None:
    classes = tuple(f"class {number}" for number in range(150))
    Confusion(classes, {(number, number): 1 for number in range(150)}).write(
        tmp_path, counted="pixels"
    )
    with Image.open(tmp_path / "confusion.png") as plot:
        assert max(plot.size) <= 3000


def test_class_names_that_look_like_tex_are_plotted(tmp_path: Path) -> None:
    Confusion(("$\\frac{1$", "$x$"), {(0, 1): 3}).write(tmp_path, counted="images")
    with Image.open(tmp_path / "confusion.png") as plot:
        plot.verify()


def test_too_many_classes_are_not_plotted(tmp_path: Path) -> None:
    classes = tuple(map(str, range(LARGEST_PLOT + 1)))
    Confusion(classes, {(LARGEST_PLOT, 0): 1}).write(tmp_path, counted="images")
    assert [path.name for path in tmp_path.iterdir()] == ["confusion.json"]


def test_table_leaves_missing_values_empty(tmp_path: Path) -> None:
    rows = [{"class": "a, b", "iou": percent(0.25)}, {"class": "c", "iou": percent(float("nan"))}]
    write_per_class(tmp_path, rows)
    assert json.loads((tmp_path / "per_class.json").read_text()) == {"unit": "%", "classes": rows}
    assert (tmp_path / "per_class.csv").read_text().splitlines() == [
        "class,iou",
        '"a, b",25.0',
        "c,",
    ]
