"""The output `details` of a classifier's evaluation: scores by class, a confusion table and
examples."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.data.image_files import decode_rgb
from pipelines.details.confusion import Confusion, count_pairs
from pipelines.details.painting import colour_of, evenly_spread, fitted, paint_text, save_beside
from pipelines.details.table import Row, percent, write_per_class
from pipelines.imagenet.dataset import Batch
from pipelines.imagenet.source import ImageSource
from pipelines.training.distributed import gather_over_ranks

LINE_PX = 20


def write_details(
    directory: Path,
    predictions: Predictions,
    source: ImageSource,
    *,
    num_painted: int,
    writes_predictions: bool,
) -> None:
    """Write the details; `predictions` are for the images of `source` that can be decoded."""
    directory.mkdir(parents=True, exist_ok=True)
    write_per_class(directory, list(_class_rows(predictions, source.classes)))
    confusion = Confusion(
        source.classes, count_pairs(predictions.labels_N, predictions.best_NG[:, 0])
    )
    confusion.write(directory, counted="images")
    for number in evenly_spread(len(predictions.indices_N), num_painted):
        _paint(directory / "painted", predictions, number, source)
    if writes_predictions:
        _write_predictions(directory / "predictions.csv", predictions, source)


def _class_rows(predictions: Predictions, classes: tuple[str, ...]) -> Iterator[Row]:
    hits_NG = predictions.best_NG == predictions.labels_N[:, None]
    num_images_K, top1_K, top5_K = (
        np.bincount(predictions.labels_N, weights=weights_N, minlength=len(classes))
        for weights_N in (None, hits_NG[:, 0], hits_NG.any(axis=1))
    )
    for name, num_images, top1, top5 in zip(classes, num_images_K, top1_K, top5_K, strict=True):
        of_images = [
            percent(hits / num_images if num_images else float("nan")) for hits in (top1, top5)
        ]
        yield {
            "class": name,
            "top1": of_images[0],
            "top5": of_images[1],
            "num_images": int(num_images),
        }


def _write_predictions(path: Path, predictions: Predictions, source: ImageSource) -> None:
    """Write one line per image: its name and class, then predictions and their probabilities, the
    best first."""
    numbers = range(1, predictions.best_NG.shape[1] + 1)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        guess_columns = [
            column for number in numbers for column in (f"guess{number}", f"probability{number}")
        ]
        writer.writerow(["image", "class", *guess_columns])
        for index, label, best_G, probabilities_G in zip(*predictions, strict=True):
            pairs = zip(best_G, probabilities_G, strict=True)
            cells = [
                cell for guess, share in pairs for cell in (source.classes[guess], f"{share:.4f}")
            ]
            writer.writerow([source.names[index], source.classes[label], *cells])


def _paint(folder: Path, predictions: Predictions, number: int, source: ImageSource) -> None:
    index, label, best_G, probabilities_G = (array[number] for array in predictions)
    true, _ = fitted(decode_rgb(source.read(int(index))))
    predicted = true.copy()
    paint_text(true, (0, 0), source.classes[label], colour_of(int(label)))
    for line, (guess, share) in enumerate(zip(best_G, probabilities_G, strict=True)):
        paint_text(
            predicted,
            (0, line * LINE_PX),
            f"{source.classes[guess]} {share:.2f}",
            colour_of(int(guess)),
        )
    name = Path(source.names[index]).with_suffix(".jpg").as_posix().replace("/", "_")
    save_beside(true, predicted, folder / name)


NUM_PREDICTIONS = 5
"""Predictions kept for each image, or as many as there are classes."""


class Predictions(NamedTuple):
    """Predictions for the images of val that can be decoded, by image index."""

    indices_N: NDArray[np.int64]  # noqa: N815
    labels_N: NDArray[np.int64]  # noqa: N815
    best_NG: NDArray[np.int64]  # noqa: N815
    """Predicted labels, the best first."""
    probabilities_NG: NDArray[np.float32]  # noqa: N815


class PredictionCollector:
    """Collects the predictions of this rank."""

    def __init__(self) -> None:
        self._batches: list[Predictions] = []

    def add(self, batch: Batch, logits_BK: Tensor) -> None:
        best = logits_BK.softmax(dim=1).topk(min(NUM_PREDICTIONS, logits_BK.shape[1]))
        indices = torch.tensor(batch.decoded_indices)
        tensors = (indices, batch.labels_B, best.indices, best.values)
        self._batches.append(Predictions(*(tensor.cpu().numpy() for tensor in tensors)))

    def gather(self) -> Predictions:
        """The predictions of all ranks, the same on each. Every rank calls it."""
        parts = [batch for batches in gather_over_ranks(self._batches) for batch in batches]
        joined = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
        order = np.argsort(joined[0])
        return Predictions(*(array[order] for array in joined))
