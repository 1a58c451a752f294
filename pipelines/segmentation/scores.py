"""Measures mIoU, mAcc and aAcc from one confusion matrix of pixels. The counts are exact, cover all
ranks, and include each image once."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pipelines.details.confusion import Confusion, Counts, sum_counts
from pipelines.details.table import Row, percent, write_per_class
from pipelines.openmmlab.library import METRICS, BaseMetric
from pipelines.segmentation.label_maps import IGNORED

PREFIX = "seg"
NUM_VALUES = 256
"""Number of labels that a byte can hold."""
PREDICTIONS = "predictions"
"""Folder of predicted label maps, in the data set's own numbering: class n of its list, counted
from 1, has the value n."""

Labels = NDArray[np.integer[Any]]


@METRICS.register_module()
class LabelMapScores(BaseMetric):  # type: ignore[misc]  # untyped base
    """The evaluator of segmentation, for training and evaluations. mmseg's own counts in float32
    and rounds to 0.01.

    Rank 0 writes to `details_dir`, if given: the table by class, the confusion matrix and
    predictions. `keep` holds the names, without suffix, of the images whose predictions are
    written; None: all images.
    """

    default_prefix = PREFIX

    def __init__(
        self, details_dir: str | None = None, keep: Collection[str] | None = (), **base: Any
    ) -> None:
        super().__init__(**base)
        self._details_dir = None if details_dir is None else Path(details_dir)
        self._keep = None if keep is None else frozenset(keep)

    def process(self, data_batch: object, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keeps sparse counts and files, which the ranks gather. Label maps of ADE20K's 2000 images
        would take 2 GB."""
        for sample in data_samples:
            predicted_HW, label_HW = (
                sample["pred_sem_seg"]["data"].squeeze(0),
                sample["gt_sem_seg"]["data"].squeeze(0),
            )
            name = Path(sample["img_path"]).stem
            is_kept = self._keep is None or name in self._keep
            png = _label_png(predicted_HW) if is_kept else None
            self.results.append((_count(label_HW.to(predicted_HW.device), predicted_HW), name, png))

    def compute_metrics(
        self, results: Sequence[tuple[Counts, str, bytes | None]]
    ) -> dict[str, float]:
        """The metrics in %. NaN if no pixel of val has a label."""
        classes = tuple(self.dataset_meta["classes"])
        confusion = Confusion(classes, sum_counts([counts for counts, _, _ in results]))
        if self._details_dir is not None:
            self._details_dir.mkdir(parents=True, exist_ok=True)
            write_per_class(self._details_dir, class_rows(confusion))
            confusion.write(self._details_dir, counted="pixels")
            _write_predictions(
                self._details_dir / PREDICTIONS, {name: png for _, name, png in results if png}
            )
        return scores_of(confusion.dense())


def scores_of(matrix_TP: Labels) -> dict[str, float]:
    """miou, macc and aacc in %, from a matrix of pixels (true, predicted). Means leave out classes
    that do not occur."""
    iou_K, accuracy_K = _shares(matrix_TP)
    with np.errstate(invalid="ignore"):
        aacc = np.float64(matrix_TP.trace()) / matrix_TP.sum()
    means = {"miou": _mean(iou_K), "macc": _mean(accuracy_K), "aacc": float(aacc)}
    return {name: 100 * value for name, value in means.items()}


def class_rows(confusion: Confusion) -> list[Row]:
    """IoU and accuracy of each class in %, and its number of pixels."""
    matrix_TP = confusion.dense()
    return [
        {
            "class": name,
            "iou": percent(iou),
            "accuracy": percent(accuracy),
            "num_pixels": int(num_pixels),
        }
        for name, iou, accuracy, num_pixels in zip(
            confusion.classes, *_shares(matrix_TP), matrix_TP.sum(axis=1), strict=True
        )
    ]


def _shares(matrix_TP: Labels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """IoU and accuracy of each class. Accuracy is NaN for a class that does not occur in the truth.
    IoU is NaN if it does not occur in the predictions either."""
    hits_K, true_K, predicted_K = matrix_TP.diagonal(), matrix_TP.sum(axis=1), matrix_TP.sum(axis=0)
    with np.errstate(invalid="ignore"):
        return hits_K / (true_K + predicted_K - hits_K), hits_K / true_K


def _mean(shares_K: NDArray[np.float64]) -> float:
    measured = shares_K[~np.isnan(shares_K)]
    return float(measured.mean()) if measured.size else float("nan")


def _count(label_HW: Tensor, predicted_HW: Tensor) -> Counts:
    is_labeled_HW = label_HW != IGNORED
    pairs_N = label_HW[is_labeled_HW].long() * NUM_VALUES + predicted_HW[is_labeled_HW].long()
    counts_Q = torch.bincount(pairs_N, minlength=NUM_VALUES**2).cpu()
    return {
        divmod(int(pair), NUM_VALUES): int(counts_Q[pair]) for pair in counts_Q.nonzero().flatten()
    }


def _label_png(predicted_HW: Tensor) -> bytes:
    content = io.BytesIO()
    Image.fromarray((predicted_HW + 1).cpu().numpy().astype(np.uint8)).save(content, format="PNG")
    return content.getvalue()


def _write_predictions(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, png in files.items():
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.png").write_bytes(png)
