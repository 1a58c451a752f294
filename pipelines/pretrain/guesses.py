"""What a classifier takes each image of val for: its best guesses, of all ranks together."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.imagenet.dataset import Batch
from pipelines.pretrain.ranks import gather_over_ranks

NUM_GUESSES = 5
"""Kept of each image, or as many as there are classes."""


class Guessed(NamedTuple):
    """The images of val that decode, by their place."""

    places_N: NDArray[np.int64]  # noqa: N815
    labels_N: NDArray[np.int64]  # noqa: N815
    best_NG: NDArray[np.int64]  # noqa: N815
    """Labels, the best guess first."""
    probabilities_NG: NDArray[np.float32]  # noqa: N815


class Guesses:
    """Collects those of this rank."""

    def __init__(self) -> None:
        self._batches: list[Guessed] = []

    def add(self, batch: Batch, logits_BK: Tensor) -> None:
        best = logits_BK.softmax(dim=1).topk(min(NUM_GUESSES, logits_BK.shape[1]))
        places = torch.tensor(batch.decoded_places)
        tensors = (places, batch.labels_B, best.indices, best.values)
        self._batches.append(Guessed(*(tensor.cpu().numpy() for tensor in tensors)))

    def of_all_ranks(self) -> Guessed:
        """Every rank calls it; the same on all."""
        parts = [batch for batches in gather_over_ranks(self._batches) for batch in batches]
        joined = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
        order = np.argsort(joined[0])
        return Guessed(*(array[order] for array in joined))
