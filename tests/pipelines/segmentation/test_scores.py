"""Scores of a confusion matrix of pixels, compared with results by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from orchestrator.errors import DataError
from pipelines.details.confusion import Confusion
from pipelines.segmentation.measure import percentages
from pipelines.segmentation.scores import PREFIX, class_rows, scores_of


def test_means_leave_out_classes_that_do_not_occur() -> None:
    """One class neither occurs nor is predicted. Another is only predicted: its IoU is 0 and it has
    no accuracy."""
    matrix = np.array([[6, 2, 0, 0], [1, 3, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    assert scores_of(matrix) == pytest.approx(
        {"miou": 100 * (6 / 9 + 3 / 6) / 2, "macc": 100 * (6 / 8 + 3 / 4) / 2, "aacc": 100 * 9 / 12}
    )
    matrix[0, 3] = 4
    assert scores_of(matrix)["miou"] == pytest.approx(100 * (6 / 13 + 3 / 6 + 0) / 3)


def test_missing_value_is_null_in_the_table() -> None:
    rows = class_rows(Confusion(("a", "b"), {(0, 0): 3, (0, 1): 1}))
    assert rows[0] == {"class": "a", "iou": 75.0, "accuracy": 75.0, "num_pixels": 4}
    assert rows[1] == {"class": "b", "iou": 0.0, "accuracy": None, "num_pixels": 0}


def test_scores_are_nan_without_a_labeled_pixel() -> None:
    assert all(math.isnan(value) for value in scores_of(np.zeros((2, 2), np.int64)).values())


def test_scores_without_a_labeled_pixel_are_an_error() -> None:
    scores = {f"{PREFIX}/{name}": value for name, value in scores_of(np.zeros((2, 2), int)).items()}
    with pytest.raises(
        DataError,
        match=r"^miou cannot be measured: the validation label maps have no labeled pixel$",
    ):
        percentages(scores)
