"""Scores of a classifier on val, over the images of all ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from orchestrator.artifact import Metric
from orchestrator.errors import DataError
from pipelines.imagenet.broken import BrokenImages, share_broken
from pipelines.imagenet.dataset import Batch
from pipelines.pretrain.precision import Precision
from pipelines.training.distributed import sum_over_ranks


@dataclass(frozen=True)
class Scores:
    """Shares in % of `num_samples` images, over all ranks, whose class is the best prediction or
    among the best five."""

    top1: float
    top5: float
    num_samples: int

    def as_metrics(self) -> tuple[Metric, ...]:
        """The scores as metrics, in %, on val."""
        return tuple(
            Metric(name=name, value=value, num_samples=self.num_samples)
            for name, value in (("top1", self.top1), ("top5", self.top5))
        )


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    precision: Precision,
    broken: BrokenImages,
    seen: Callable[[Batch, Tensor], None] | None = None,
) -> Scores:
    """Scores over all decodable images in all ranks' batches, each counted once.

    `seen` gets each of this rank's batches and its logits, (images, classes).
    """
    model.eval()
    counts_3 = torch.zeros(3, dtype=torch.float64)  # top-1 hits, top-5 hits, images
    # Compile only for training: an odd last batch would be compiled again.
    with torch.compiler.set_stance("force_eager"):
        for batch in _decodable(batches, broken):
            on_device = batch.to(precision.device)
            with precision.autocast():
                logits_BK: Tensor = model(on_device.images_BCHW)
            counts_3 += _counts(logits_BK.float(), on_device.labels_B).cpu()
            if seen is not None:
                seen(batch, logits_BK.float())
    share_broken(broken)
    top1, top5, num_samples = sum_over_ranks(counts_3, precision.device).tolist()
    if num_samples == 0:
        raise DataError("no image in val/ can be decoded; check the files")
    return Scores(100 * top1 / num_samples, 100 * top5 / num_samples, int(num_samples))


def _decodable(batches: Iterable[Batch], broken: BrokenImages) -> Iterator[Batch]:
    for batch in batches:
        broken.add(batch.broken)
        if len(batch.labels_B):
            yield batch


def _counts(logits_BK: Tensor, labels_B: Tensor) -> Tensor:
    best_B5 = logits_BK.topk(min(5, logits_BK.shape[1])).indices
    hits_B5 = best_B5 == labels_B[:, None]
    num_samples = torch.tensor(len(labels_B), device=logits_BK.device)
    return torch.stack([hits_B5[:, 0].sum(), hits_B5.sum(), num_samples])
